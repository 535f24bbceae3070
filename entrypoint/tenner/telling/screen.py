"""What a person sees while a run goes on: a bar on a terminal, plain lines everywhere else.

A container's log has no cursor, so there a line is written when something happens and, during the
training, at most every `_LINE_SECONDS` seconds.
"""

import os
import sys
import time
from typing import Protocol, Self, TextIO

from tenner.errors import Level, Problem
from tenner.events import Checkpoint, Drew, EpochEnd, Event, Failed, Phase, Sent, Step, Warned

_LINE_SECONDS = 15.0
MARKS: dict[Level, str] = {"error": "error", "warning": "warning", "note": "note"}


class Screen(Protocol):
    """Shows a run. Used as a context so that a bar is closed whatever happens."""

    def say(self, text: str = "") -> None: ...
    def problem(self, problem: Problem) -> None: ...
    def show(self, event: Event) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


def make_screen(out: TextIO = sys.stderr, *, price_per_hour: float | None = None) -> Screen:
    """The screen that fits `out`."""
    said = any(os.environ.get(name) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))
    if out.isatty() or said:
        from tenner.telling.terminal_screen import terminal_screen

        found = terminal_screen(out, price_per_hour=price_per_hour)
        if found is not None:
            return found
    return LineScreen(out, price_per_hour=price_per_hour)


def step_line(step: Step, *, price_per_hour: float | None, spent_seconds: float) -> str:
    """`step 120/400  epoch 3/10  loss 0.0812  4.1 img/s  1 m 40 s left  $0.02 of $0.07`"""
    left = (step.num_steps - step.step) * step.seconds_per_step
    parts = [
        f"step {step.step}/{step.num_steps}",
        f"epoch {step.epoch}/{step.num_epochs}",
        f"loss {step.loss_avg:.4f}",
        f"{step.images_per_second:.2g} img/s",
        f"{duration(left)} left",
    ]
    if price_per_hour:
        spent = spent_seconds / 3600 * price_per_hour
        parts.append(f"${spent:.2f} of ${spent + left / 3600 * price_per_hour:.2f}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`45 s`, `3 m 20 s`, `1 h 05 m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"


def event_line(event: Event) -> str | None:
    """One line for an event that is worth one; None for those that only move a bar."""
    match event:
        case Phase(name=name, detail=detail, done=None):
            return f"{name}: {detail}" if detail else name
        case EpochEnd(epoch=epoch, num_epochs=num_epochs, loss_avg=loss):
            return f"epoch {epoch}/{num_epochs} ended, mean loss {loss:.4f}"
        case Checkpoint(path=path, step=step):
            return f"checkpoint at step {step}: {path}"
        case Drew(path=path, epoch=epoch):
            return f"samples of epoch {epoch}: {path}"
        case Sent(what=what, step=step, destination=destination):
            return f"{what} of step {step} is at {destination}"
        case Warned(text=text, fix=fix, level=level):
            return f"{level}: {text}" + (f" (fix: {fix})" if fix else "")
        case Failed(text=text, fix=fix):
            return f"error: {text}" + (f" (fix: {fix})" if fix else "")
        case _:
            return None


class LineScreen:
    """Plain lines, for logs and pipes."""

    def __init__(self, out: TextIO, *, price_per_hour: float | None = None) -> None:
        self._out = out
        self._price_per_hour = price_per_hour
        self._started = time.monotonic()
        self._last_line = 0.0

    def say(self, text: str = "") -> None:
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
