"""Files of a model repo by huggingface_hub's own downloader, in a cache of its layout, verified.

`HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT` and Xet storage work as in every program that uses the
library. Two things are added. A file must have the SHA-256 that the Hub or tenner names for it. And
a download over plain HTTP is resumed by a later start too: the library resumes after a cut
connection, but drops a partial download when its process ends.
"""

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, cast

from tenner.core.checksums import hash_file
from tenner.core.retry import Deadline, TransientError, retry_policy
from tenner.storage import http
from tenner.storage.hub_client import HubClient, call_hub

OnFileBytes = Callable[[int], None]
"""Called with how many bytes of a file are here."""
_LONGEST_SECONDS = 24 * 3600.0
_RESUMED_BYTES = 20_000_000
"""Files below this size are fetched anew: the library writes 10 MB at a time."""
_OWN_DISK = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTDIR)
)


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a model repo at one commit (40 hex digits). `size` in bytes; `sha256` in hex,
    empty where the Hub names none, as for small files."""

    repo: str
    name: str
    commit: str
    size: int
    sha256: str = ""


class WrongFileError(Exception):
    """What arrived has another SHA-256, `found`, than was named. It is removed."""

    def __init__(self, file: HubFile, found: str) -> None:
        super().__init__(f"{file.name} of {file.repo}: SHA-256 {found}, not {file.sha256}")
        self.found = found


@dataclass(frozen=True, kw_only=True)
class HubCache:
    """Folders of the Hub's files: `path`, where new ones are put, and `others`, which are read."""

    path: Path
    others: tuple[Path, ...] = ()

    def find(self, file: HubFile) -> Path | None:
        """The file of this commit and SHA-256, where it is here already; no request is made.

        One in `path` that is another than it should be is removed.
        """
        for folder in (self.path, *self.others):
            found = _pointer(file, folder)
            if found is None:
                continue
            if not file.sha256 or _sha256_or_none(found) == file.sha256:
                return found
            if folder == self.path:
                _remove(found)
        return None

    def find_of_branch(self, repo: str, name: str, revision: str) -> HubFile | None:
        """The file of the commit that a branch or tag had when the library last saw it. Its SHA-256
        is the name that the library gave its content; None where that is none, or it is not here.
        """
        for folder in (self.path, *self.others):
            found = _cached(repo, name, revision, folder)
            sha256 = found.readlink().name if found and found.is_symlink() else ""
            if found and len(sha256) == 64:
                commit = found.relative_to(folder).parts[2]
                size = found.stat().st_size
                return HubFile(repo=repo, name=name, commit=commit, size=size, sha256=sha256)
        return None

    def missing_bytes(self, file: HubFile) -> int:
        """What is still to come of a file that is not here."""
        part = _part(file, file.sha256, self.path) if file.sha256 else None
        here = part.stat().st_size if part and part.is_file() else 0
        return max(0, file.size - here)


def hub_cache(env: Mapping[str, str], own: Path) -> HubCache:
    """The library's own cache where the user names one by `HF_HUB_CACHE` or `HF_HOME` and it can be
    written to, unless `TENNER_CACHE_DIR` is set; else the folder `own`. The library's is read."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return HubCache(path=own)
    named = env.get("HF_HUB_CACHE") or (f"{env['HF_HOME']}/hub" if env.get("HF_HOME") else "")
    library = Path(named or constants.HF_HUB_CACHE).expanduser()
    if named and not env.get("TENNER_CACHE_DIR") and _can_be_written(library):
        return HubCache(path=library, others=(own,))
    return HubCache(path=own, others=(library,))


def fetch_hub_file(
    file: HubFile, client: HubClient, cache: HubCache, *, on_bytes: OnFileBytes | None = None
) -> Path:
    """The file in the cache, fetched where it is not there, and verified.

    Tried again until five tries in a row brought nothing new; where no connection was ever made,
    the library has tried for half a minute, and that is enough. Raises WrongFileError,
    TransientError or PermanentError, and OSError where this machine's disk cannot take it.
    """
    if found := cache.find(file):
        return found
    failures, furthest = 0, 0
    deadline = Deadline(_LONGEST_SECONDS)

    def on_progress(done: int) -> None:
        nonlocal failures, furthest
        if done > furthest:
            failures, furthest = 0, done
        if on_bytes:
            on_bytes(done)

    def once() -> Path:
        nonlocal failures
        try:
            return call_hub(
                file.repo, client, deadline, _download, file, client, cache, on_progress
            )
        except TransientError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _OWN_DISK:
                raise error.__cause__ from None
            failures += http.ATTEMPTS if not furthest and _is_unreachable(error) else 1
            raise

    again = retry_policy(
        lambda error: isinstance(error, TransientError),
        lambda _: failures >= http.ATTEMPTS,
        first_seconds=http.FIRST_WAIT_SECONDS,
        longest_seconds=http.FIRST_WAIT_SECONDS * 2 ** (http.ATTEMPTS - 1),
    )
    path = again(once)
    if file.sha256 and (found_sha256 := hash_file(path)[1]) != file.sha256:
        _remove(path)
        raise WrongFileError(file, found_sha256)
    return path


def _is_unreachable(error: TransientError) -> bool:
    """Whether no connection could be made. The library has its HTTP client under changing names."""
    cause: BaseException | None = error
    while cause is not None and type(cause).__name__ not in ("ConnectError", "ConnectTimeout"):
        cause = cause.__cause__
    return cause is not None


def _download(file: HubFile, client: HubClient, cache: HubCache, on_progress: OnFileBytes) -> Path:
    """One try, by the library. Raises its errors."""
    from huggingface_hub import (
        get_hf_file_metadata,  # pyright: ignore[reportUnknownVariableType]
        hf_hub_url,
    )

    report = type("Report", (Report,), {"on_progress": staticmethod(on_progress)})
    if file.size >= _RESUMED_BYTES:
        url = hf_hub_url(file.repo, file.name, revision=file.commit, endpoint=client.endpoint)
        about = get_hf_file_metadata(url, token=client.token or False, endpoint=client.endpoint)
        if about.etag and not (about.xet_file_data and _is_xet_used()):
            _resume(file, url, about.etag, client, cache, report)
    found = client.api.hf_hub_download(
        file.repo, file.name, revision=file.commit, cache_dir=cache.path, tqdm_class=report
    )
    return Path(found)


def _is_xet_used() -> bool:
    """Whether the library can fetch files that are in Xet storage from there."""
    from huggingface_hub import constants

    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


def _resume(
    file: HubFile, url: str, etag: str, client: HubClient, cache: HubCache, report: type
) -> None:
    """Bring the content to where the library puts it in its cache, and finds it."""
    from huggingface_hub.file_download import (
        http_get,  # pyright: ignore[reportUnknownVariableType]
    )
    from huggingface_hub.utils import (
        WeakFileLock,
        build_hf_headers,  # pyright: ignore[reportUnknownVariableType]
    )

    part = _part(file, etag, cache.path)
    part.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(part.with_name(f"{part.name}.lock")):
        if (whole := part.with_name(etag)).is_file():
            return
        with part.open("ab") as out:
            if out.tell() > file.size:
                out.truncate(0)
            http_get(
                url,
                out,
                resume_size=out.tell(),
                headers=build_hf_headers(token=client.token or False, library_name="tenner"),
                expected_size=file.size,
                tqdm_class=cast(Any, report),
            )
        part.replace(whole)


class Report:
    """What the library takes for a progress bar: it counts bytes and reports them."""

    on_progress: Callable[[int], None]

    def __init__(self, *_: object, initial: int = 0, total: int | None = None, **__: object):
        self.n = initial
        self.total = total

    def update(self, num_bytes: float | None = 1) -> None:
        self.n += int(num_bytes or 0)
        self.on_progress(self.n)

    def update_transfer(self, num_bytes: float | None = 1) -> None:
        """Bytes of Xet on their way, which are reported when they are in the file."""

    def set_postfix_str(self, *_: object, **__: object) -> None:
        """Speeds are not shown."""

    set_transfer_postfix_str = refresh = close = set_postfix_str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def _pointer(file: HubFile, folder: Path) -> Path | None:
    return _cached(file.repo, file.name, file.commit, folder)


def _cached(repo: str, name: str, revision: str, folder: Path) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(repo, name, cache_dir=folder, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _part(file: HubFile, etag: str, folder: Path) -> Path:
    """What has arrived of a file; the library's cache names content by its ETag."""
    from huggingface_hub.file_download import repo_folder_name

    return (
        folder / repo_folder_name(repo_id=file.repo, repo_type="model") / "blobs" / f"{etag}.part"
    )


def _sha256_or_none(path: Path) -> str | None:
    try:
        return hash_file(path)[1]
    except OSError:
        return None


def _remove(pointer: Path) -> None:
    """Remove a file from the cache: its content, and the link to it."""
    pointer.resolve().unlink(missing_ok=True)
    pointer.unlink(missing_ok=True)


def _can_be_written(folder: Path) -> bool:
    """Whether the folder, or where it would be made, lets this user write."""
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return os.access(nearest, os.W_OK)
