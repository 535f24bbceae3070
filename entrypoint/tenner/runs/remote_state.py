"""A state at a destination: its folder, the names of its files, and its mark.

The folder's name has the step and a hash of the content, so that no state overwrites another. Where
the keys may not delete or list, two folders of fixed names (`SLOTS`) are overwritten in turn, so
that one of them always has a complete state. `complete.json`, the mark, lists each file with its
size and SHA-256. It is sent last and removed first, and a state without it is ignored.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tenner.core.checksums import DeliveredFile, HashedFile, hashed_text
from tenner.core.errors import DeliveryError
from tenner.core.messages import msg
from tenner.storage.manifest import (
    Manifest,
    RemoteEntry,
    make_manifest,
    name_problem,
    read_manifest,
)

MARK = "complete.json"
FILES = "files/"
"""The folder of the files in a state's folder, beside the mark."""
SLOTS = ("slot-0", "slot-1")
STATE_NAME = re.compile(r"step-(\d{8,})-[0-9a-f]{12}|slot-[01]")


@dataclass(frozen=True, kw_only=True)
class RemoteState:
    """A complete state at a destination. `name` is its folder there; the files have their names of
    the local folder."""

    step: int
    name: str
    files: tuple[RemoteEntry, ...]

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, kw_only=True)
class PackedState:
    """A local state to be sent: its files with their full names there, and the mark."""

    state: RemoteState
    files: tuple[HashedFile, ...]
    mark: HashedFile

    def in_folder(self, name: str) -> "PackedState":
        """The same state, in the folder `name`."""
        start = self.mark.name.removesuffix(f"{self.state.name}/{MARK}")

        def moved(file: HashedFile) -> HashedFile:
            inside = file.name.removeprefix(f"{start}{self.state.name}/")
            return replace(file, name=f"{start}{name}/{inside}")

        state = replace(self.state, name=name)
        files = tuple(moved(file) for file in self.files)
        return PackedState(state=state, files=files, mark=moved(self.mark))


def pack_state(
    folder: Path, step: int, *, job: str, remote_folder: str, scratch: Path
) -> PackedState:
    """The files in `folder` as the state of the absolute `step`, below `remote_folder` there.

    The mark is written into `scratch`. Raises DeliveryError where there is no file, or one cannot
    be read.
    """
    manifest = _manifest_of_state(folder, job)
    name = f"step-{step:08d}-{hashlib.sha256(manifest.to_json().encode()).hexdigest()[:12]}"
    marked = json.dumps({**json.loads(manifest.to_json()), "step": step}, ensure_ascii=False)
    mark = hashed_text(scratch / MARK, marked, f"{remote_folder}/{name}/{MARK}")
    files = [replace(file, name=f"{remote_folder}/{name}/{file.name}") for file in manifest.files]
    entries = [RemoteEntry(name=f.name, size=f.size, sha256=f.sha256) for f in manifest.files]
    return PackedState(state=_state(name, step, entries), files=tuple(files), mark=mark)


def read_state(name: str, content: bytes | None, there: Sequence[str] | None) -> RemoteState | None:
    """The state in the folder `name`, whose files are `there` (None: it cannot be listed, and the
    mark is trusted); None where its mark is missing, is none, or lists files that are not there.
    """
    manifest = read_manifest(content) if content else None
    step = _step_in(name, content) if manifest and content else None
    if manifest is None or not manifest.files or step is None:
        return None
    found, seen = None if there is None else set(there), set[str]()
    for entry in manifest.files:
        inside = entry.name.startswith(FILES) and not name_problem(entry.name, seen)
        if not inside or (found is not None and entry.name not in found):
            return None
        seen.add(entry.name)
    return _state(name, step, manifest.files)


def outdated(
    whole: Sequence[RemoteState], found: Mapping[str, Sequence[str]], keep_states: int
) -> dict[str, Sequence[str]]:
    """Of the states `found` (their files by their names) those to be removed: all but the
    `keep_states` newest of `whole` (newest first), and unfinished ones older than them."""
    newest_names = {state.name for state in whole[:keep_states]}
    newest = whole[0].step if whole and keep_states else None
    return {
        state: names
        for state, names in found.items()
        if state not in newest_names and (newest is None or step_of(state) <= newest)
    }


def newest_first(states: Sequence[RemoteState]) -> tuple[RemoteState, ...]:
    return tuple(sorted(states, key=lambda each: (each.step, each.name), reverse=True))


def step_of(state_name: str) -> int:
    """The step in a folder's name; 0 for a slot, where only the mark has it."""
    return 0 if state_name in SLOTS else int(state_name.split("-")[1])


def _step_in(state_name: str, mark: bytes) -> int | None:
    """The step of the state in a folder, whose mark was read as a manifest before."""
    if state_name not in SLOTS:
        return step_of(state_name)
    step: object = json.loads(mark).get("step")
    return step if isinstance(step, int) and step >= 0 else None


def _manifest_of_state(folder: Path, job: str) -> Manifest:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise DeliveryError(
            msg("{folder} holds no state", folder=folder),
            fix=msg("look whether it was moved or removed"),
        )
    names = [FILES + path.relative_to(folder).as_posix() for path in paths]
    files = [DeliveredFile(path=path, name=name) for path, name in zip(paths, names, strict=True)]
    return make_manifest(files, job=job)


def _state(name: str, step: int, listed: Sequence[RemoteEntry]) -> RemoteState:
    """The state in the folder `name`, whose mark lists these files."""
    files = [replace(each, name=each.name.removeprefix(FILES)) for each in listed]
    return RemoteState(step=step, name=name, files=tuple(files))
