"""What a complete delivery is: each file's name, size and SHA-256, written down and sent last.

A reader that finds `manifest.json` knows that the set is whole; one that does not must wait.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tenner.errors import DeliveryError, Problem

MANIFEST_NAME = "manifest.json"
_VERSION = 1
_BLOCK_BYTES = 4 << 20  # so large that threads that hash seldom wait for one that does not


@dataclass(frozen=True, kw_only=True)
class DeliveredFile:
    """A local file and the relative name (with `/`) that it gets at every destination."""

    path: Path
    name: str


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    """A file whose size in bytes and SHA-256 (hex) were read once and are held to from then on.

    `stamp` (inode, time in ns, size) tells cheaply that nobody wrote to it since.
    """

    path: Path
    name: str
    size: int
    sha256: str
    stamp: tuple[int, int, int] = field(default=(0, 0, -1), compare=False)

    def is_as_sealed(self) -> bool:
        """Whether it is surely what it was; False says little. Raises OSError."""
        return self.stamp == _stamp(self.path)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A complete set. `job` is whatever the caller identifies the run by (a name, a hash)."""

    files: tuple[SealedFile, ...]
    job: str = ""

    def to_json(self) -> str:
        """The text of `manifest.json`: the same files always give the same bytes."""
        files = [
            {"name": each.name, "size": each.size, "sha256": each.sha256}
            for each in sorted(self.files, key=lambda file: file.name)
        ]
        content = {"manifest_version": _VERSION, "job": self.job, "files": files}
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


@dataclass(frozen=True, kw_only=True)
class RemoteEntry:
    """A line of a manifest that was read from a destination."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RemoteManifest:
    job: str
    files: tuple[RemoteEntry, ...]


def make_manifest(files: Sequence[DeliveredFile], *, job: str = "") -> Manifest:
    """Read every file once and write down its size and SHA-256.

    Raises DeliveryError with all files that are missing, unreadable or badly named: names are
    relative, inside the destination, and each is used once.
    """
    problems: list[Problem] = []
    seen: set[str] = set()
    named: list[DeliveredFile] = []
    for file in files:
        if reason := name_problem(file.name, seen):
            problems.append(Problem(text=f"cannot deliver {file.path}: {reason}"))
            continue
        seen.add(file.name)
        named.append(file)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:  # hashing needs no GIL
        found = list(pool.map(_sealed_or_problem, named))
    problems += [each for each in found if isinstance(each, Problem)]
    sealed = [each for each in found if isinstance(each, SealedFile)]
    if problems:
        raise DeliveryError(problems=problems)
    return Manifest(files=tuple(sealed), job=job)


def _sealed_or_problem(file: DeliveredFile) -> SealedFile | Problem:
    try:
        return seal(file)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Problem(
            text=f"cannot read {file.path}, which is to be delivered: {reason}",
            fix="look whether it was moved or the disk is full",
        )


def read_manifest(text: bytes | str) -> RemoteManifest | None:
    """The manifest in `text`, or None where it is none (cut, changed, something else)."""
    try:
        content: Any = json.loads(text)
        entries = tuple(
            RemoteEntry(name=str(each["name"]), size=int(each["size"]), sha256=str(each["sha256"]))
            for each in content["files"]
        )
        return RemoteManifest(job=str(content.get("job", "")), files=entries)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def seal(file: DeliveredFile) -> SealedFile:
    """Size and SHA-256 of a file as it is now. Raises OSError."""
    stamp = _stamp(file.path)
    size, sha256 = hash_file(file.path)
    return SealedFile(path=file.path, name=file.name, size=size, sha256=sha256, stamp=stamp)


def changed_since(file: SealedFile) -> Problem | None:
    """What to say where a file is not what it was when it was sealed. Raises OSError."""
    if hash_file(file.path) == (file.size, file.sha256):
        return None
    return Problem(
        text=f"{file.path} changed while it was delivered", fix="deliver again when it rests"
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


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


def name_problem(name: str, seen: set[str]) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ".." in parts or ":" in parts[0]:
        return f"the name {name!r} is not a relative one"
    if str(PurePosixPath(name)) != name or any(ord(sign) < 32 for sign in name):
        return f"the name {name!r} is not a plain one"
    if name == MANIFEST_NAME:
        return f"{MANIFEST_NAME} is written by the delivery itself"
    return f"the name {name!r} is used twice" if name in seen else ""
