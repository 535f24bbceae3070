"""Items that are sent to a destination while a run trains: weights, states and notes."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tenner.core.event_log import events_to_deliver
from tenner.core.run_dir import RunDir
from tenner.runs.ledger import LEDGER_FILE

EVENTS_FILE = "events.jsonl"
DRAFTS_FILE = "captions.jsonl"
"""The captions that a run has drafted, as `pack_drafts` writes them."""


@dataclass(frozen=True, kw_only=True)
class UploadItem:
    """Something to send: a weights file under `name`, or a state's folder in the outbox."""

    path: Path
    step: int
    name: str = ""

    @property
    def is_state(self) -> bool:
        return not self.name

    @property
    def is_weights(self) -> bool:
        return self.name.endswith(".safetensors")

    @property
    def what(self) -> str:
        """The kind of item as reported: `state`, `checkpoint` or its name."""
        return "state" if self.is_state else "checkpoint" if self.is_weights else self.name

    @property
    def num_bytes(self) -> int:
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())


@dataclass(kw_only=True)
class Speed:
    """The measured speed of a destination: bytes that were sent, and their seconds."""

    num_bytes: int = 0
    seconds: float = 0.0

    def add(self, num_bytes: int, seconds: float) -> None:
        self.num_bytes += num_bytes
        self.seconds += seconds

    @property
    def bytes_per_second(self) -> float | None:
        return self.num_bytes / self.seconds if self.seconds > 0 and self.num_bytes else None


def notes_of(run_dir: RunDir) -> tuple[tuple[str, bytes], ...]:
    """The ledger, the events and the drafts of a run's captions as they are now, by their names.
    Raises OSError."""
    notes: list[tuple[str, bytes]] = []
    if run_dir.ledger.is_file():
        notes.append((LEDGER_FILE, run_dir.ledger.read_bytes()))
    if run_dir.events.is_file():
        notes.append((EVENTS_FILE, events_to_deliver(run_dir)))
    drafts = run_dir.path / DRAFTS_FILE
    if drafts.is_file():
        notes.append((DRAFTS_FILE, drafts.read_bytes()))
    return tuple(notes)


def link_tree(source: Path, target: Path) -> None:
    """Make hard links of the files of `source` in `target`, or copies where the disk has none.

    Raises OSError.
    """
    for path in sorted(source.rglob("*")):
        if not path.is_file():
            continue
        twin = target / path.relative_to(source)
        twin.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, twin)
        except OSError:
            shutil.copyfile(path, twin)
