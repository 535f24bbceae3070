"""Who wrote a caption file: a draft may be drafted anew, a human's file is left as it is.

A line for each draft is noted beside the captions before the draft itself is written. A file whose
content is not the noted one was written or edited by a human.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from tenner.core.files import write_atomically
from tenner.core.temporary_files import part_of

NOTE = ".tenner-captions.jsonl"
State = Literal["missing", "drafted", "outdated", "human"]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What was noted of a draft: the content's SHA-256, and of what it was made."""

    sha256: str
    made_by: str


class Drafts:
    """The captions in `folder`. `made_by` names the model and everything that shapes its words."""

    def __init__(self, folder: Path, made_by: Mapping[str, Any]) -> None:
        self._folder = folder
        self._made_by = sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
        self._noted = _read_note(folder / NOTE)

    def state(self, name: str) -> State:
        """What the caption file `name`, a path in the folder, is. Raises OSError."""
        path = self._folder / name
        if not path.exists():
            return "missing"
        noted = self._noted.get(name)
        if noted is None or noted.sha256 != sha256(path.read_bytes()).hexdigest():
            return "human"
        return "drafted" if noted.made_by == self._made_by else "outdated"

    def write(self, name: str, caption: str) -> None:
        """Write a draft, noted first: a kill in between loses the draft, not its authorship."""
        data = (caption + "\n").encode()
        note = {"name": name, "sha256": sha256(data).hexdigest(), "made_by": self._made_by}
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / NOTE).open("a", encoding="utf-8") as out:
            out.write(json.dumps(note) + "\n")
        write_atomically(self._folder / name, data)


def _read_note(path: Path) -> dict[str, Draft]:
    """The last line of each file counts; lines that a kill has cut are passed over."""
    found: dict[str, Draft] = {}
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row: dict[str, Any] = json.loads(line)
            found[str(row["name"])] = Draft(sha256=row["sha256"], made_by=row["made_by"])
        except (ValueError, TypeError, KeyError):
            continue
    return found


def pack_drafts(folder: Path) -> bytes:
    """All drafts in a folder and its subfolders with their notes, as JSON lines. Raises OSError."""
    files = [*folder.rglob("*.txt"), *folder.rglob(NOTE)]
    lines = [
        json.dumps(
            {
                "file": path.relative_to(folder).as_posix(),
                "text": path.read_text(encoding="utf-8", errors="surrogateescape"),
            }
        )
        for path in sorted(files)
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def unpack_drafts(content: bytes, folder: Path) -> int:
    """Write what `pack_drafts` gave to a folder that is not there yet, whole or not at all.

    Returns the number of captions. Lines that are damaged or name a file elsewhere are left out.
    Raises OSError.
    """
    part = part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    number = 0
    for line in content.decode("utf-8", "replace").splitlines():
        try:
            row: dict[str, Any] = json.loads(line)
            name, text = PurePosixPath(str(row["file"])), str(row["text"])
        except (ValueError, TypeError, KeyError):
            continue
        is_draft = name.suffix == ".txt" or name.name == NOTE
        if not is_draft or name.is_absolute() or ".." in name.parts:
            continue
        path = part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
        number += name.name != NOTE
    if number:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part.replace(folder)
    shutil.rmtree(part, ignore_errors=True)
    return number
