"""A base that is elsewhere, by the heads of its files: a plan needs no more of it.

Of each safetensors file the head is read with a range request, of a folder its small configuration
files too. They are written to a folder as files of the right size with holes for weights, so that
the code that looks at a base which is here looks at this one.
"""

import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tenner.base.source.address import BaseAddress
from tenner.base.source.cache import FetchedBase, Fetching, download_kind, named
from tenner.core.errors import SettingsError
from tenner.core.json_text import parse_object
from tenner.core.messages import msg
from tenner.core.retry import Deadline
from tenner.core.safetensors_head import refuse_beginning, tensor_entries
from tenner.core.secrets import Secrets
from tenner.storage.http import read_beginning

Beginning = Callable[[int], tuple[bytes, int | None]]
"""The first so many bytes of a file, and its whole size where the server states it."""
_FIRST_BYTES = 1 << 19
"""The head of a checkpoint has 0.1 to 0.4 MB; of a longer one the rest is requested too."""
_SECONDS = 120.0
_AT_ONCE = 8


def fetch_heads(
    address: BaseAddress,
    *,
    folder: Path,
    cache: Path,
    secrets: Secrets,
    environ: Mapping[str, str],
) -> FetchedBase | None:
    """The base at `address` as it is in the cache, else in `folder` by its heads; None for the one
    file of a known base that is not in the cache, as all of it is known.

    Raises SettingsError with the reasons it failed.
    """
    task = Fetching(cache=cache, secrets=secrets, environ=environ)
    try:
        match address.kind:
            case "hub":
                return _from_hub(address, task, folder)
            case "s3" | "gs" | "azure" | "rclone":
                return _from_store(address, task, folder)
            case "web":
                return _from_web(address, task, folder)
    except SettingsError as error:  # servers repeat what they were sent
        problems = [
            replace(each, text=secrets.redact(each.text), fix=secrets.redact(each.fix))
            for each in error.problems
        ]
        raise SettingsError(problems=problems) from None


def _from_web(address: BaseAddress, task: Fetching, folder: Path) -> FetchedBase:
    from tenner.base.source.from_web import web_file, web_target

    cached = web_target(address, task)
    if cached.is_file():
        return FetchedBase(path=cached)
    kind, target = web_file(address, task), folder / cached.name

    def beginning(num_bytes: int) -> tuple[bytes, int | None]:
        return read_beginning(address.location, num_bytes, kind=kind)

    write_head(target, beginning, address)
    return FetchedBase(path=target, is_whole=False)


def _from_hub(address: BaseAddress, task: Fetching, folder: Path) -> FetchedBase | None:
    from huggingface_hub import hf_hub_url

    from tenner.base.source.from_hub import cached_known_file, look_up

    known = address.known
    if known and (address.path, address.revision) == (known.file, known.revision):
        return cached_known_file(address, task)
    found = look_up(address, task)
    if isinstance(found, FetchedBase):
        return found
    page = f"{found.client.endpoint}/{address.location}"
    token = found.client.token
    kind = download_kind(
        task.cache,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        denied_fix=msg(
            "open {page}, accept its terms where it has some, and set HF_TOKEN to a token"
            " that may read it",
            page=page,
        ),
        weights=False,
    )

    def reading(name: str) -> Beginning:
        file = found.files[name]
        url = hf_hub_url(file.repo, file.name, revision=file.commit, endpoint=found.client.endpoint)
        return lambda num_bytes: (read_beginning(url, num_bytes, kind=kind)[0], file.size)

    sizes = {name: file.size for name, file in found.files.items()}
    _write_all(folder, {name: (sizes[name], reading(name)) for name in sizes}, address)
    only = next(iter(found.files)) if len(found.files) == 1 else ""
    return FetchedBase(
        path=folder / only if only else folder,
        hub_id=address.location,
        licence=found.licence,
        is_whole=False,
        sha256=found.files[only].sha256 if only else "",
    )


def _from_store(address: BaseAddress, task: Fetching, folder: Path) -> FetchedBase:
    from tenner.base.source.from_store import versions_of, with_store
    from tenner.storage.source import Source

    def heads(
        store: Source, address: BaseAddress, task: Fetching, deadline: Deadline
    ) -> FetchedBase:
        del task
        sizes = {name: size for name, (size, _) in versions_of(store, address, deadline).items()}

        def reading(name: str) -> Beginning:
            return lambda num_bytes: (store.beginning(name, num_bytes, deadline), sizes[name])

        _write_all(folder, {name: (sizes[name], reading(name)) for name in sizes}, address)
        path = folder / next(iter(sizes)) if len(sizes) == 1 else folder
        return FetchedBase(path=path, is_whole=False)

    return with_store(address, task, Deadline(_SECONDS), heads)


def _write_all(
    folder: Path, files: Mapping[str, tuple[int, Beginning]], address: BaseAddress
) -> None:
    """Heads of weights, and small files whole; vocabularies are not needed."""

    def write(name: str) -> None:
        size, beginning = files[name]
        target = folder / name
        if name.endswith(".safetensors"):
            write_head(target, beginning, address)
        elif name.endswith(".json") and not name.startswith("tokenizer"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(beginning(max(1, size))[0])

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(write, files))


def write_head(target: Path, beginning: Beginning, address: BaseAddress) -> None:
    """A file of the right size at `target` that holds a safetensors head and nothing more.

    Raises SettingsError where `beginning` is no safetensors file's.
    """
    raw, size = beginning(_FIRST_BYTES)
    try:
        refuse_beginning(raw[:512])
    except SettingsError as error:
        raise named(error, address, target) from error
    length = 8 + struct.unpack("<Q", raw[:8].ljust(8, b"\0"))[0]
    if length > len(raw):
        raw, size = beginning(length)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        out.write(raw[:length])
        out.truncate(size if size is not None else _size_by_head(raw[:length]))


def _size_by_head(raw: bytes) -> int:
    """Bytes of a file of which only the head is known."""
    try:
        entries = tensor_entries(parse_object(raw[8:]))
        return len(raw) + max((each["data_offsets"][1] for each in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError):
        return len(raw)  # the head itself is damaged, which is reported where it is read
