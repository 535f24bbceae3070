"""Files as they are at one moment: their size and SHA-256, which everything later is compared with.

They are hashed on threads of their own, so that uploads can begin meanwhile: only what needs a hash
waits for it.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tenner.core.errors import DeliveryError, Problem
from tenner.core.messages import msg
from tenner.core.retry import PermanentError

_BLOCK_BYTES = 4 << 20  # so large that threads that hash seldom wait for one that does not
_MOST_THREADS = 8  # more are faster than disks, and each has a block


@dataclass(frozen=True, kw_only=True)
class DeliveredFile:
    """A local file and the relative name (with `/`) that it gets at every destination."""

    path: Path
    name: str


@dataclass(frozen=True, kw_only=True)
class HashedFile:
    """A file whose size in bytes and SHA-256 (hex) are read once; from then on the file must match
    them.

    `stamp` (inode, time of change in ns, size) shows without reading it that it was not written to
    since.
    """

    path: Path
    name: str
    stamp: tuple[int, int, int]
    hashed: "Future[str]" = field(compare=False, repr=False)

    @property
    def size(self) -> int:
        return self.stamp[2]

    @property
    def sha256(self) -> str:
        """Waits until it is known. Raises PermanentError where the file cannot be read, or changed
        its size while it was read."""
        return self.hashed.result()

    def is_as_hashed(self) -> bool:
        """Whether size and times are those of when it was hashed: then its content is too. False
        means that only hashing it again shows whether the content changed. Raises OSError."""
        return self.stamp == _stamp(self.path)


def begin_hashing(files: Sequence[DeliveredFile]) -> tuple[HashedFile, ...]:
    """Look at every file, and begin to hash them.

    Raises DeliveryError with all that are missing or unreadable.
    """
    stamps: list[tuple[int, int, int]] = []
    problems: list[Problem] = []
    for file in files:
        try:
            with file.path.open("rb"):
                stamps.append(_stamp(file.path))
        except OSError as error:
            problems.append(_cannot_read(file.path, error))
    if problems:
        raise DeliveryError(problems=problems)
    num_threads = min(os.cpu_count() or 1, _MOST_THREADS)
    pool = ThreadPoolExecutor(max_workers=num_threads)  # hashing needs no GIL
    hashed = tuple(
        HashedFile(
            path=file.path,
            name=file.name,
            stamp=stamp,
            hashed=pool.submit(_hash_of, file.path, stamp[2]),
        )
        for file, stamp in zip(files, stamps, strict=True)
    )
    pool.shutdown(wait=False)
    return hashed


def hashed_text(path: Path, content: str, name: str) -> HashedFile:
    """A new file at `path` with this content. Raises OSError where it cannot be written."""
    path.write_text(content, encoding="utf-8")
    (hashed,) = begin_hashing([DeliveredFile(path=path, name=name)])
    return hashed


def stop_hashing(files: Sequence[HashedFile]) -> None:
    """Cancel the hashing of files that have not been begun."""
    for file in files:
        file.hashed.cancel()


def wait_until_hashed(files: Sequence[HashedFile]) -> None:
    """Wait for every hash. Raises DeliveryError with all that could not be computed."""
    refused = [file.hashed.exception() for file in files]
    problems = [each.problem for each in refused if isinstance(each, PermanentError)]
    if problems:
        raise DeliveryError(problems=problems)


def changed_since(file: HashedFile) -> Problem | None:
    """The problem where a file is not what it was when it was hashed. Raises OSError."""
    if hash_file(file.path) == (file.size, file.sha256):
        return None
    return _changed(file.path)


def hash_file(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 in hex. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as source:
        most = os.fstat(source.fileno()).st_size or 1
        block = memoryview(bytearray(min(most, _BLOCK_BYTES)))
        while got := source.readinto(block):
            digest.update(block[:got])
            size += got
    return size, digest.hexdigest()


def _hash_of(path: Path, size: int) -> str:
    try:
        found, sha256 = hash_file(path)
    except OSError as error:
        raise PermanentError(_cannot_read(path, error)) from error
    if found != size:
        raise PermanentError(_changed(path))
    return sha256


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _changed(path: Path) -> Problem:
    text = msg("{path} changed while it was delivered", path=path)
    return Problem(text=text, fix=msg("deliver again when it rests"))


def _cannot_read(path: Path, error: OSError) -> Problem:
    reason = error.strerror or type(error).__name__
    return Problem(
        text=msg(
            "cannot read {path}, which is to be delivered: {reason}", path=path, reason=reason
        ),
        fix=msg("look whether it was moved or the disk is full"),
    )
