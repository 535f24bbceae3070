"""What a person sees while a run goes on: a bar on a terminal, plain lines everywhere else.

A container's log has no cursor, so there a line is written when something happens and, during the
training, at most every `_LINE_SECONDS` seconds.
"""

import contextlib
import os
import sys
import time
from typing import Protocol, Self, TextIO

from tenner.core.errors import Problem
from tenner.core.events import Event, Step
from tenner.ui.lines import MARKS, event_line, step_line

_LINE_SECONDS = 15.0


class Screen(Protocol):
    """Shows a run. Used as a context so that a bar is closed whatever happens."""

    def say(self, text: str = "") -> None: ...
    def problem(self, problem: Problem) -> None: ...
    def show(self, event: Event) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


def make_screen(out: TextIO | None = None, *, price_per_hour: float | None = None) -> Screen:
    """The screen that fits `out`, stderr where none is given."""
    stream: TextIO = sys.stderr if out is None else out
    forced = any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))
    if stream.isatty() or forced:
        from tenner.ui.terminal_screen import terminal_screen

        found = terminal_screen(stream, price_per_hour=price_per_hour)
        if found is not None:
            return found
    return LineScreen(stream, price_per_hour=price_per_hour)


class LineScreen:
    """Plain lines, for logs and pipes."""

    def __init__(self, out: TextIO, *, price_per_hour: float | None = None) -> None:
        self._out = out
        self._price_per_hour = price_per_hour
        self._started = time.monotonic()
        self._last_line = 0.0

    def say(self, text: str = "") -> None:
        with contextlib.suppress(OSError):  # a log on a full disk, a pipe that nobody reads
            print(text, file=self._out, flush=True)

    def problem(self, problem: Problem) -> None:
        self.say(f"{MARKS[problem.level]}: {problem.text}")
        if problem.fix:
            self.say(f"  fix: {problem.fix}")

    def show(self, event: Event) -> None:
        if isinstance(event, Step):
            self._show_step(event)
        elif line := event_line(event):
            self.say(line)

    def _show_step(self, step: Step) -> None:
        now = time.monotonic()
        if step.step in (1, step.num_steps) or now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            spent = now - self._started
            self.say(step_line(step, price_per_hour=self._price_per_hour, spent_seconds=spent))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None
