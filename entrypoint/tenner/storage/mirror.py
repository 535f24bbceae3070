"""A local copy of a remote folder: which files are here already, which were removed.

Each file's version is noted as it arrives, so that a killed start loses one file at most.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTE = ".tenner-mirror.jsonl"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file in the remote folder. `version` changes with its content; `size` in bytes."""

    key: str
    size: int
    version: str


class Mirror:
    """The copy in `folder`; `files` are the remote files by their paths in it."""

    def __init__(self, folder: Path, files: Mapping[str, RemoteFile]) -> None:
        self.folder = folder
        self._files = files
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._here = _read_note(folder / NOTE)

    @property
    def num_bytes(self) -> int:
        """Of all remote files."""
        return sum(each.size for each in self._files.values())

    def path(self, name: str) -> Path:
        return self.folder / name

    def missing(self) -> dict[str, RemoteFile]:
        """Files that are not here, or in another version."""
        return {name: each for name, each in self._files.items() if not self._is_here(name, each)}

    def remove_outdated(self) -> None:
        """Remove files that are no longer in the remote folder, and empty folders."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            name = path.relative_to(self.folder).as_posix()
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif name not in self._files and name != NOTE and not path.name.endswith(".part"):
                path.unlink()

    def arrived(self, name: str) -> int:
        """Note that a file is here in its remote version; returns its size in bytes."""
        remote = self._files[name]
        line = json.dumps({"name": name, "size": remote.size, "version": remote.version})
        with self._lock, (self.folder / NOTE).open("a", encoding="utf-8") as out:
            out.write(line + "\n")
        return remote.size

    def _is_here(self, name: str, remote: RemoteFile) -> bool:
        path = self.folder / name
        if self._here.get(name) != (remote.size, remote.version) or not path.is_file():
            return False
        return path.stat().st_size == remote.size


def _read_note(path: Path) -> dict[str, tuple[int, str]]:
    """The versions that arrived: of each file the last line counts; unreadable lines are left
    out."""
    found: dict[str, tuple[int, str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return found
    for line in lines:
        try:
            row: dict[str, Any] = json.loads(line)
            found[str(row["name"])] = (int(row["size"]), str(row["version"]))
        except (ValueError, TypeError, KeyError):
            continue
    return found
