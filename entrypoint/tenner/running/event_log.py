"""The run's own record: every event with its time, one JSON line each, in `events.jsonl`."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tenner.events import Event
from tenner.local_paths import LocalPaths
from tenner.running.run_dir import RunDir, write_atomically
from tenner.secrets import redact_shapes


class EventLog:
    """Appends events. A line cut by a kill is closed at the next start, and readers skip it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("ab", buffering=0)
        if self._file.tell() and not _ends_with_newline(path):
            self._file.write(b"\n")

    def append(self, event: Event) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        line |= {key: _shown(value) for key, value in event.to_dict().items()}
        self._file.write(
            json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        )

    def put_before(self, earlier: bytes) -> None:
        """Take in what earlier lives told on another machine, unless steps are here. Raises
        OSError."""
        here = self._path.read_bytes()
        if b'"event": "step"' in here:
            return
        ended = earlier if earlier.endswith(b"\n") else earlier + b"\n"
        write_atomically(self._path, ended + here)
        self._file.close()
        self._file = self._path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_event_lines(path: Path) -> Iterator[dict[str, Any]]:
    """All whole lines of the log at `path`, oldest first, as they were written."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def events_to_deliver(place: RunDir) -> bytes:
    """The log of a run as it may leave this machine: without its paths. Raises OSError."""
    paths = LocalPaths(inside=(place.path, Path.cwd()))
    lines: list[bytes] = []
    for raw in place.events.read_bytes().splitlines(keepends=True):
        if b"/" not in raw and b"\\" not in raw:  # nearly all: the steps
            lines.append(raw)
            continue
        try:
            found = paths.removed_in(json.loads(raw))
        except ValueError:
            continue  # cut by a kill
        lines.append(
            json.dumps(found, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        )
    return b"".join(lines)


def _shown(value: Any) -> Any:
    """A value of an event as it may be delivered: this file goes where the LoRA goes."""
    return redact_shapes(value) if isinstance(value, str) else value


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
