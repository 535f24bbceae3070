"""What a person sees during a run: a live screen on a terminal, plain lines elsewhere.

A container's log has no cursor, so there a line with its time is written when something happens
and, during the training, at most every `_LINE_SECONDS` seconds. Programs read events as JSON.
"""

import contextlib
import json
import os
import sys
import time
from typing import Any, Literal, Protocol, Self, TextIO

from tenner.core.errors import Problem
from tenner.core.events import Event, Failed, Step, Warned
from tenner.core.messages import as_message
from tenner.core.secrets import redact_problem, redact_shapes
from tenner.ui.lines import MARKS, event_line, step_line

_LINE_SECONDS = 15.0


AddressOf = Literal["page", "samples"]
"""What of a run has an address that a person opens: a path, or a URL where it is served."""


class Screen(Protocol):
    """Shows a run. Used as a context so that a live screen is closed whatever happens."""

    def say(self, text: str = "") -> None: ...
    def problem(self, problem: Problem) -> None: ...
    def show(self, event: Event) -> None: ...
    def show_address(self, what: AddressOf, address: str) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


def make_screen(
    out: TextIO | None = None,
    *,
    price_per_hour: float | None = None,
    quiet: bool = False,
    as_json: bool = False,
    has_times: bool = False,
) -> Screen:
    """The screen that fits `out`, stderr where none is given.

    `quiet` shows errors and warnings only; `as_json` writes events to stdout as well; with
    `has_times` each line that is not on a terminal begins with the time of day.
    """
    stream: TextIO = sys.stderr if out is None else out
    screen = _screen_for(stream, price_per_hour, quiet=quiet, has_times=has_times)
    return JsonScreen(screen, sys.stdout) if as_json else screen


def _screen_for(
    stream: TextIO, price_per_hour: float | None, *, quiet: bool, has_times: bool
) -> Screen:
    forced = any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))
    if (stream.isatty() or forced) and not quiet:
        from tenner.ui.terminal_screen import terminal_screen

        found = terminal_screen(stream, price_per_hour=price_per_hour)
        if found is not None:
            return found
    kind = QuietScreen if quiet else LineScreen
    return kind(stream, price_per_hour=price_per_hour, has_times=has_times)


class LineScreen:
    """Plain lines, for logs and pipes."""

    def __init__(
        self, out: TextIO, *, price_per_hour: float | None = None, has_times: bool = False
    ) -> None:
        self._out = out
        self._price_per_hour = price_per_hour
        self._has_times = has_times
        self._started = time.monotonic()
        self._last_line = 0.0

    def say(self, text: str = "") -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        if self._has_times:
            now = time.strftime("%H:%M:%S")
            text = "\n".join(f"{now} {line}" if line else "" for line in text.split("\n"))
        with contextlib.suppress(OSError):  # a log on a full disk, a pipe that nobody reads
            print(text, file=self._out, flush=True)

    def problem(self, problem: Problem) -> None:
        problem = redact_problem(problem)
        self._print(f"{MARKS[problem.level]}: {problem.text}")
        if problem.fix:
            self._print(f"  fix: {problem.fix}")

    def show(self, event: Event) -> None:
        if isinstance(event, Step):
            self._show_step(event)
        elif line := event_line(event):
            self.say(line)

    def show_address(self, what: AddressOf, address: str) -> None:
        if "://" in address:  # a path is printed at the end of the run
            self.say(f"the {what}: {address}")

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


def problem_of(event: Warned | Failed) -> Problem:
    """An event of a run as the problem that it reports."""
    level = event.level if isinstance(event, Warned) else "error"
    return Problem(text=as_message(event.text), fix=as_message(event.fix), level=level)


class QuietScreen(LineScreen):
    """Errors and warnings only."""

    def say(self, text: str = "") -> None:
        return None

    def problem(self, problem: Problem) -> None:
        if problem.level != "note":
            super().problem(problem)

    def show(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.problem(problem_of(event))


class JsonScreen:
    """What another screen shows for people, and every event and problem as a line of JSON on `out`:
    `{"event": "step", "step": 12, …}`, without secrets, as `events.jsonl` of a run has them."""

    def __init__(self, screen: Screen, out: TextIO) -> None:
        self._screen = screen
        self._out = out

    def say(self, text: str = "") -> None:
        self._screen.say(text)

    def problem(self, problem: Problem) -> None:
        self._screen.problem(problem)
        event: Event = Failed(kind="other", text=problem.text, fix=problem.fix)
        if problem.level != "error":
            event = Warned(text=problem.text, fix=problem.fix, level=problem.level)
        self._write(event.to_dict())

    def show(self, event: Event) -> None:
        self._screen.show(event)
        self._write(event.to_dict())

    def show_address(self, what: AddressOf, address: str) -> None:
        self._screen.show_address(what, address)

    def _write(self, values: dict[str, Any]) -> None:
        shown = {
            key: redact_shapes(value) if isinstance(value, str) else value
            for key, value in values.items()
        }
        with contextlib.suppress(OSError):  # a pipe that nobody reads: the run continues
            print(json.dumps(shown, ensure_ascii=False), file=self._out, flush=True)

    def __enter__(self) -> Self:
        self._screen.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._screen.__exit__(*exception)
