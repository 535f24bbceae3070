"""The run's log: every event with its time, one JSON line each, in `events.jsonl`."""

import contextlib
import errno
import json
import os
import threading
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, cast

from tenner.core.events import Event
from tenner.core.files import write_atomically
from tenner.core.redact import LocalPaths
from tenner.core.run_dir import RunDir
from tenner.core.secrets import redact_shapes

_MOST_WAITING = 10_000
"""Lines that wait in memory while the disk takes none; the oldest are dropped first."""


class EventLog:
    """Appends events, each line whole or not at all.

    A full disk is no error here: `trouble` holds it, the lines wait in memory, and are written once
    there is space. A line that a kill cut is removed at the next start. Safe to use from several
    threads.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_torn_lines(path)
        self.trouble: OSError | None = None
        self._path = path
        self._lock = threading.Lock()
        self._waiting = deque[bytes](maxlen=_MOST_WAITING)
        self._file = path.open("ab", buffering=0)

    def append(self, event: Event) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        line |= {key: _shown(value) for key, value in event.to_dict().items()}
        with self._lock:
            text = json.dumps(line, ensure_ascii=False)
            self._waiting.append(text.encode(errors="backslashreplace") + b"\n")
            self._write()

    def _write(self) -> None:
        """Write what waits, as far as the disk takes it."""
        while self._waiting:
            line, before = self._waiting[0], -1
            try:
                before = os.fstat(self._file.fileno()).st_size
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            except OSError as error:
                self.trouble = OSError(error.errno, error.strerror, str(self._path))
                if before >= 0:
                    with contextlib.suppress(OSError):
                        os.ftruncate(self._file.fileno(), before)
                return
            self._waiting.popleft()

    def put_before(self, earlier: bytes) -> None:
        """Put the events of earlier attempts on another machine first, unless steps are here.
        Raises OSError."""
        here = self._path.read_bytes()
        if b'"event": "step"' in here:
            return
        ended = earlier if earlier.endswith(b"\n") else earlier + b"\n"
        write_atomically(self._path, ended + here)
        with self._lock:
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


def events_to_deliver(run_dir: RunDir) -> bytes:
    """The log of a run as it may leave this machine: without its paths. Raises OSError."""
    paths = LocalPaths(inside=(run_dir.path, Path.cwd()))
    lines: list[bytes] = []
    for raw in run_dir.events.read_bytes().splitlines(keepends=True):
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
    match value:
        case str():
            return redact_shapes(value)
        case dict():
            return {key: _shown(each) for key, each in cast("dict[str, Any]", value).items()}
        case _:
            return value


def _remove_torn_lines(path: Path) -> None:
    """Remove incomplete lines: cut by a kill, by a full disk or by a loss of power."""
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if _is_whole(line)]
    if len(whole) == len(lines):
        return
    with contextlib.suppress(OSError):  # on a full disk it is done at a later start
        if whole == lines[: len(whole)]:
            os.truncate(path, sum(map(len, whole)))
        else:
            write_atomically(path, b"".join(whole))


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
