"""From what the user named to a folder on this machine: folders as they are, archives unpacked,
remote ones fetched first. Kept by content, so that a restart fetches and unpacks nothing twice."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from urllib.parse import urlsplit

from tenner.dataset.archive import is_archive, remove_tree, unpack
from tenner.dataset.request import DatasetRequest
from tenner.errors import DatasetError

OnBytes = Callable[[int, int | None], None]
ATTEMPTS = 5
"""Tries in a row that bring nothing new."""
MOUNT_IT = "in a container, mount it: -v ./training_data:/workspace/training_data:ro"


def cache_dir(request: DatasetRequest) -> Path:
    """Where fetched datasets are kept."""
    if request.cache_dir:
        return request.cache_dir
    from platformdirs import user_cache_path

    return user_cache_path("tenner") / "datasets"


def fetch(source: str, request: DatasetRequest, on_bytes: OnBytes | None = None) -> Path:
    """The folder that `source` names. Raises DatasetError."""
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    if scheme in ("https", "http"):
        return _unpacked(_download(source, request, on_bytes), request)
    if scheme == "hf":
        return _from_hub(source, request)
    if scheme == "s3":
        return _from_s3(source, request, on_bytes)
    if scheme not in ("", "file"):
        raise DatasetError(
            f"the dataset {source} is of a kind that is not known",
            fix="name a folder, an archive, or s3://, hf://datasets/ or https://",
        )
    return _local(Path(source.removeprefix("file://")).expanduser(), request)


def _local(path: Path, request: DatasetRequest) -> Path:
    if path.is_dir():
        return path
    if path.is_file():
        if not is_archive(path):
            raise DatasetError(f"the dataset {path} is a file, not a folder", fix="name its folder")
        return _unpacked(path, request)
    windows = ":\\" in str(path) and os.name != "nt"
    said = "is on your PC, not in this container" if windows else "is not there"
    raise DatasetError(f"the dataset {path} {said}", fix=f"name a folder of images; {MOUNT_IT}")


def _unpacked(archive: Path, request: DatasetRequest) -> Path:
    """The archive's content, unpacked once for each content."""
    digest = _digest(archive, request)
    folder = cache_dir(request) / digest[:32]
    if folder.is_dir():
        return folder
    part = folder.with_name(f"{folder.name}.{token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        unpack(archive, part, max_bytes=request.max_bytes)
        part.rename(folder)
    except OSError as error:
        if folder.is_dir():
            return folder  # another process was faster
        raise DatasetError(
            f"the dataset cannot be unpacked in {folder.parent}: {error}",
            fix="free disk space, or set another cache folder",
        ) from error
    finally:
        remove_tree(part)
    return folder


def _digest(archive: Path, request: DatasetRequest) -> str:
    with archive.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if request.sha256 and digest != request.sha256.lower().removeprefix("sha256:"):
        raise DatasetError(
            f"{archive.name} is not the file that was meant: its SHA-256 is {digest}",
            fix="fetch it again, or correct the checksum",
        )
    return digest


def _download(url: str, request: DatasetRequest, on_bytes: OnBytes | None) -> Path:
    """The file of a URL, in the cache. A cut download goes on where it was."""
    import httpx

    key = hashlib.sha256(url.encode()).hexdigest()[:32]
    name = Path(urlsplit(url).path).name or "dataset"
    target = cache_dir(request) / "downloads" / f"{key}-{name[-80:]}"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    host = urlsplit(url).hostname or url
    failures = 0
    while True:
        before = _size(part)
        try:
            _download_rest(url, part, request, on_bytes)
        except httpx.HTTPError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures == ATTEMPTS:
                raise DatasetError(
                    f"the dataset cannot be fetched from {host}: {error}",
                    fix="check the address; a second start goes on where this one ended",
                ) from None
        else:
            part.replace(target)
            return target


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download_rest(url: str, part: Path, request: DatasetRequest, on_bytes: OnBytes | None) -> None:
    import httpx

    have = _size(part)
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as answer:
        if answer.status_code == 416:
            part.unlink()  # what is here is not a part of what is there
            raise httpx.ReadError("the file has changed")
        _refuse_answer(answer)
        resumed = answer.status_code == 206
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        _refuse_size(total or 0, request)
        with part.open("ab" if resumed else "wb") as out:
            for chunk in answer.iter_raw():
                have += len(chunk)
                _refuse_size(have, request)
                out.write(chunk)
                if on_bytes:
                    on_bytes(have, total)
    if total is not None and have < total:
        raise httpx.ReadError("cut off")


def _refuse_size(num_bytes: int, request: DatasetRequest) -> None:
    if num_bytes > request.max_bytes:
        raise DatasetError(
            f"the dataset is larger than {request.max_bytes / 1024**3:g} GB",
            fix="pack only the images and captions",
        )


def _refuse_answer(answer: "object") -> None:
    import httpx

    assert isinstance(answer, httpx.Response)
    host, status = answer.url.host, answer.status_code
    if status in (401, 403, 404, 410):
        why = {404: "there is no such file", 410: "the file is gone"}.get(
            status, "access is denied"
        )
        raise DatasetError(
            f"{host} answers {status}: {why}", fix="check that the link opens without signing in"
        )
    answer.raise_for_status()
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise DatasetError(
            f"{host} answers with a web page, not an archive",
            fix="give the direct link to the file, as a browser's download shows it",
        )


def _from_hub(source: str, request: DatasetRequest) -> Path:
    repo = source.removeprefix("hf://").removeprefix("datasets/").strip("/")
    if repo.count("/") != 1 or not source.startswith("hf://datasets/"):
        raise DatasetError(f"{source} names no dataset", fix="write hf://datasets/user/name")
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise DatasetError(
            "a dataset on Hugging Face needs one more package", fix="pip install 'tenner[hub]'"
        ) from None
    try:
        found = snapshot_download(repo, repo_type="dataset", cache_dir=cache_dir(request) / "hub")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DatasetError(
            f"{source} cannot be fetched: {str(error).splitlines()[0]}",
            fix="check the name, and HF_TOKEN if the dataset is private",
        ) from None
    folder = Path(found)
    archives = [path for path in folder.iterdir() if is_archive(path)]
    others = [path for path in folder.iterdir() if path.is_dir()]
    return (
        _unpacked(archives[0].resolve(), request) if len(archives) == 1 and not others else folder
    )


def _from_s3(source: str, request: DatasetRequest, on_bytes: OnBytes | None) -> Path:
    try:
        import boto3  # pyright: ignore
        from botocore.exceptions import BotoCoreError, ClientError  # pyright: ignore
    except ImportError:
        raise DatasetError(
            "a dataset on S3 needs one more package", fix="pip install 'tenner[s3]'"
        ) from None
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    folder = cache_dir(request) / "s3" / hashlib.sha256(source.encode()).hexdigest()[:32]
    try:
        client = boto3.client("s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))  # pyright: ignore
        files = _fetch_objects(client, bucket, prefix, folder, request, on_bytes)  # pyright: ignore
    except (BotoCoreError, ClientError) as error:
        raise DatasetError(
            f"{source} cannot be fetched: {error}",
            fix="check the bucket's name, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from None
    if not files:
        raise DatasetError(f"{source} holds no files", fix="check the prefix, letter for letter")
    return _unpacked(files[0], request) if len(files) == 1 and is_archive(files[0]) else folder


def _fetch_objects(
    client: "object",
    bucket: str,
    prefix: str,
    folder: Path,
    request: DatasetRequest,
    on_bytes: OnBytes | None,
) -> list[Path]:
    """Every object below the prefix, as a file; one that is here with its size and ETag stays."""
    pages = client.get_paginator("list_objects_v2")  # pyright: ignore
    files: list[Path] = []
    total = 0
    for page in pages.paginate(Bucket=bucket, Prefix=prefix):  # pyright: ignore
        for found in page.get("Contents", []):  # pyright: ignore
            key, size = str(found["Key"]), int(found["Size"])  # pyright: ignore
            tag = str(found["ETag"]).strip('"')  # pyright: ignore
            if key.endswith("/"):
                continue
            total += size
            _refuse_size(total, request)
            name = key.removeprefix(prefix.rpartition("/")[0]).lstrip("/")
            if ".." in name.split("/"):
                raise DatasetError(f"the object {key} leads out of the folder", fix="rename it")
            target = folder / name
            mark = target.with_name(f".{target.name}.{tag}.etag")
            if not (mark.is_file() and target.is_file() and target.stat().st_size == size):
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f".{target.name}.part")
                client.download_file(bucket, key, str(part))  # pyright: ignore
                part.replace(target)
                mark.touch()
            files.append(target)
            if on_bytes:
                on_bytes(total, None)
    return files
