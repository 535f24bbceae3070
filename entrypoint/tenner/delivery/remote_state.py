"""A state at a destination: how its folder is named, what is in it, and when it is whole.

A state is a folder named by its step and by a hash of its content, so that no state ever takes
another's place, not even of the same step from another life of the run. Its files are sent first
and `complete.json`, with each one's size and SHA-256, last: a state without it is not seen. When
states are dropped, `complete.json` goes first. Pure, apart from reading the folder to be sent.
"""

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tenner.delivery.manifest import (
    DeliveredFile,
    Manifest,
    RemoteEntry,
    make_manifest,
    name_problem,
    read_manifest,
)
from tenner.errors import DeliveryError

MARK = "complete.json"
FILES = "files/"
"""Where a state's own files lie in its folder, beside the mark."""
STATE_NAME = re.compile(r"step-(\d{8,})-[0-9a-f]{12}")


@dataclass(frozen=True, kw_only=True)
class RemoteState:
    """A complete state at a destination. `name` is its folder there; the files' names are as
    they were in the local folder."""

    step: int
    name: str
    files: tuple[RemoteEntry, ...]

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file in self.files)


def read_state(name: str, mark: bytes | None, there: Collection[str]) -> RemoteState | None:
    """The state in the folder `name`, or None where its mark is missing, or tells of files that
    are not among `there`, the names in that folder."""
    manifest = read_manifest(mark) if mark else None
    if manifest is None or not manifest.files:
        return None
    seen: set[str] = set()
    for entry in manifest.files:
        inside = entry.name.startswith(FILES) and not name_problem(entry.name, seen)
        if not inside or entry.name not in there:
            return None
        seen.add(entry.name)
    return state_of(name, manifest.files)


def manifest_of_state(folder: Path, job: str) -> Manifest:
    """Raises DeliveryError where there is nothing, or a file cannot be read."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise DeliveryError(f"{folder} holds no state", fix="look whether it was moved or removed")
    names = [FILES + path.relative_to(folder).as_posix() for path in paths]
    files = [DeliveredFile(path=path, name=name) for path, name in zip(paths, names, strict=True)]
    return make_manifest(files, job=job)


def state_of(name: str, listed: Sequence[RemoteEntry]) -> RemoteState:
    """The state in the folder `name`, whose mark lists these files."""
    files = [replace(each, name=each.name.removeprefix(FILES)) for each in listed]
    return RemoteState(step=step_of(name), name=name, files=tuple(files))


def state_name(step: int, manifest: Manifest) -> str:
    return f"step-{step:08d}-{hashlib.sha256(manifest.to_json().encode()).hexdigest()[:12]}"


def step_of(state_name: str) -> int:
    return int(state_name.split("-")[1])
