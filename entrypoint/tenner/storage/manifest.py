"""The manifest of a complete delivery: each file's name, size and SHA-256, sent last.

A reader that finds `manifest.json` knows that the set is whole; one that does not must wait.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tenner.core.checksums import DeliveredFile, HashedFile, begin_hashing, wait_until_hashed
from tenner.core.errors import DeliveryError, Problem
from tenner.core.messages import msg

MANIFEST_NAME = "manifest.json"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A complete set. `job` identifies the run; the caller chooses how (a name, a hash)."""

    files: tuple[HashedFile, ...]
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
    """A file in a manifest that was read from a destination."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RemoteManifest:
    """The files of a complete delivery, and the run that it is of."""

    job: str
    files: tuple[RemoteEntry, ...]


def begin_manifest(files: Sequence[DeliveredFile], *, job: str = "") -> Manifest:
    """The manifest of these files while they are still being hashed.

    Raises DeliveryError with all files that are missing, unreadable or badly named: names are
    relative, inside the destination, and each is used once.
    """
    problems: list[Problem] = []
    seen: set[str] = set()
    named: list[DeliveredFile] = []
    for file in files:
        if reason := name_problem(file.name, seen):
            problems.append(
                Problem(text=msg("cannot deliver {path}: {reason}", path=file.path, reason=reason))
            )
            continue
        seen.add(file.name)
        named.append(file)
    try:
        hashed = begin_hashing(named)
    except DeliveryError as error:
        raise DeliveryError(problems=[*problems, *error.problems]) from error
    if problems:
        raise DeliveryError(problems=problems)
    return Manifest(files=hashed, job=job)


def make_manifest(files: Sequence[DeliveredFile], *, job: str = "") -> Manifest:
    """The manifest of these files, all hashed. Raises DeliveryError as `begin_manifest`."""
    manifest = begin_manifest(files, job=job)
    wait_until_hashed(manifest.files)
    return manifest


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


def name_problem(name: str, seen: set[str]) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ".." in parts or ":" in parts[0]:
        return msg("the name {name} is not a relative one", name=repr(name))
    if str(PurePosixPath(name)) != name or any(ord(sign) < 32 for sign in name):
        return msg("the name {name} is not a plain one", name=repr(name))
    if name == MANIFEST_NAME:
        return msg("{manifest_name} is written by the delivery itself", manifest_name=MANIFEST_NAME)
    return msg("the name {name} is used twice", name=repr(name)) if name in seen else ""
