"""From what the user named to a folder on this machine: folders as they are, archives unpacked,
remote ones fetched first. Kept by content, so that a restart fetches and unpacks nothing twice."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from tenner.core.addresses import full_address
from tenner.core.errors import DatasetError
from tenner.core.messages import msg
from tenner.core.temporary_files import part_of, remove_abandoned_parts
from tenner.dataset.archive import is_archive, remove_tree, unpack
from tenner.dataset.listing import classify
from tenner.dataset.request import DatasetRequest
from tenner.storage.cache_dir import downloads_dir
from tenner.storage.http import OnBytes, download

MOUNT_IT = msg("in a container, mount it: -v ./training_data:/workspace/training_data:ro")


STORE_SCHEMES = ("gs", "gcs", "azure", "az", "abfs", "abfss", "rclone")
"""Of addresses that are fetched through a destination's store."""


def cache_dir(request: DatasetRequest) -> Path:
    """Where fetched datasets are cached."""
    return request.cache_dir or downloads_dir({}) / "datasets"


def fetch(source: str, request: DatasetRequest, on_bytes: OnBytes | None = None) -> Path:
    """The folder that `source` names. Raises DatasetError."""
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    scheme = "rclone" if source.lower().startswith("rclone:") else scheme
    if scheme in ("https", "http"):
        return _unpacked(_download(source, request, on_bytes), request)
    if scheme == "hf":
        from tenner.dataset.from_hub import fetch_from_hub

        folder = fetch_from_hub(source, request, cache_dir(request), on_bytes)
        return _unpacked_alone(folder, request)
    if scheme == "s3":
        from tenner.dataset.from_s3 import fetch_from_s3

        folder = fetch_from_s3(source, request, cache_dir(request), on_bytes)
        return _unpacked_alone(folder, request)
    if scheme in STORE_SCHEMES:
        from tenner.dataset.from_store import fetch_from_store

        folder = fetch_from_store(source, request, cache_dir(request), on_bytes)
        return _unpacked_alone(folder, request)
    if scheme not in ("", "file"):
        raise DatasetError(
            msg("the dataset {source} is of a kind that is not known", source=source),
            fix=msg(
                "name a folder, an archive, or s3://, gs://, azure://, rclone:, hf://datasets/"
                " or https://"
            ),
        )
    return _local(Path(source.removeprefix("file://")).expanduser(), request)


def _unpacked_alone(folder: Path, request: DatasetRequest) -> Path:
    """What was fetched; where that is one archive and no pictures, what is in it."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    archives = [path for path in entries if path.is_file() and is_archive(path)]
    if len(archives) == 1 and not any(path.is_dir() or is_picture(path) for path in entries):
        return _unpacked(archives[0].resolve(), request)
    return _out_of_tables(folder, request)


def _out_of_tables(folder: Path, request: DatasetRequest) -> Path:
    """The folder, or where it holds tables and no pictures, those that are in them."""
    from tenner.dataset.tables import find_tables, write_pictures

    if any(is_picture(path) for path in folder.rglob("*")) or not (tables := find_tables(folder)):
        return folder
    digests = "".join(_digest(table, replace(request, sha256="")) for table in tables)
    digest = hashlib.sha256(digests.encode()).hexdigest()
    return _kept(
        digest, request, lambda part: write_pictures(tables, part, max_bytes=request.max_bytes)
    )


def is_picture(path: Path) -> bool:
    return classify(path.name, 0).kind == "image"


def _local(path: Path, request: DatasetRequest) -> Path:
    if path.is_dir():
        return _out_of_tables(path, request)
    if path.is_file():
        if not is_archive(path):
            raise DatasetError(
                msg("the dataset {path} is a file, not a folder", path=path),
                fix=msg("name its folder"),
            )
        return _unpacked(path, request)
    windows = ":\\" in str(path) and os.name != "nt"
    state = msg("is on your PC, not in this container") if windows else msg("is not there")
    raise DatasetError(
        msg("the dataset {path} {state}", path=path, state=state),
        fix=msg("name a folder of images; {mount_it}", mount_it=MOUNT_IT),
    )


def _unpacked(archive: Path, request: DatasetRequest) -> Path:
    """The archive's content, unpacked once for each content."""
    return _kept(
        _digest(archive, request),
        request,
        lambda part: unpack(archive, part, max_bytes=request.max_bytes),
    )


def _kept(digest: str, request: DatasetRequest, write: Callable[[Path], None]) -> Path:
    """The folder of what has this digest; `write` fills it where it is not there yet."""
    folder = cache_dir(request) / digest[:32]
    if folder.is_dir():
        return folder
    part = part_of(folder)
    remove_abandoned_parts(folder.parent)
    try:
        part.mkdir(parents=True)
        write(part)
        part.rename(folder)
    except OSError as error:
        if folder.is_dir():
            return folder  # another process was faster
        raise DatasetError(
            msg(
                "the dataset cannot be unpacked in {parent}: {error}",
                parent=folder.parent,
                error=error,
            ),
            fix=msg("free disk space, or set another cache folder"),
        ) from error
    finally:
        remove_tree(part)
    return folder


def _digest(archive: Path, request: DatasetRequest) -> str:
    with archive.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if request.sha256 and digest != request.sha256.lower().removeprefix("sha256:"):
        raise DatasetError(
            msg(
                "{name} is not the expected file: its SHA-256 is {digest}",
                name=archive.name,
                digest=digest,
            ),
            fix=msg("fetch it again, or correct the checksum"),
        )
    return digest


def _download(url: str, request: DatasetRequest, on_bytes: OnBytes | None) -> Path:
    """The archive of a URL, in the cache; where its checksum is known and it is here, unasked."""
    key = hashlib.sha256(full_address(url).encode()).hexdigest()[:32]
    name = Path(urlsplit(url).path).name or "dataset"
    target = cache_dir(request) / "downloads" / f"{key}-{name[-80:]}"
    if not (request.sha256 and target.is_file() and _is_right(target, request)):
        download(url, target, max_bytes=request.max_bytes, on_bytes=on_bytes)
    return target


def _is_right(archive: Path, request: DatasetRequest) -> bool:
    try:
        _digest(archive, request)
    except DatasetError:
        return False
    return True
