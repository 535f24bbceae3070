"""What a person sees while a run goes on: a bar on a terminal, plain lines everywhere else.

A container's log has no cursor, so there a line is written when something happens and, during the
training, at most every `_LINE_SECONDS` seconds.
"""

import sys
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from tenner.errors import Level, Problem
from tenner.events import Checkpoint, Drew, EpochEnd, Event, Failed, Phase, Sent, Step, Warned

_LINE_SECONDS = 15.0
_MARKS: dict[Level, str] = {"error": "error", "warning": "warning", "note": "note"}
_STYLES: dict[Level, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}


class Screen(Protocol):
    """Shows a run. Used as a context so that a bar is closed whatever happens."""

    def say(self, text: str = "") -> None: ...
    def problem(self, problem: Problem) -> None: ...
    def show(self, event: Event) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None: ...


def make_screen(out: TextIO = sys.stderr, *, price_per_hour: float | None = None) -> Screen:
    """The screen that fits `out`."""
    console = Console(file=out, highlight=False, soft_wrap=True)
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalScreen(console, price_per_hour=price_per_hour)
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
        self.say(f"{_MARKS[problem.level]}: {problem.text}")
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        return None


class TerminalScreen:
    """One bar for what goes on, lines above it for what happened."""

    def __init__(self, console: Console, *, price_per_hour: float | None = None) -> None:
        self._console = console
        self._price_per_hour = price_per_hour
        self._started = time.monotonic()
        self._progress = Progress(
            TextColumn("[bold]{task.description:<9}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            transient=True,
            refresh_per_second=4,
        )
        self._task: TaskID | None = None
        self._name = ""

    def say(self, text: str = "") -> None:
        self._console.print(text, markup=False)

    def problem(self, problem: Problem) -> None:
        said = Text(f"{_MARKS[problem.level]}: ", style=_STYLES[problem.level])
        said.append(problem.text, style="default not bold")
        if problem.fix:
            said.append(f"\n  fix: {problem.fix}", style="dim not bold")
        self._console.print(said)  # in one piece: a live bar swallows what has no line end

    def show(self, event: Event) -> None:
        match event:
            case Step():
                spent = time.monotonic() - self._started
                text = step_line(event, price_per_hour=self._price_per_hour, spent_seconds=spent)
                self._move("training", text, event.step, event.num_steps)
            case Phase(done=int(done)):
                text = f"{done}/{event.total or '?'}  {event.detail}"
                self._move(event.name, text, done, event.total)
            case Phase():
                self._move(event.name, event.detail, 0, None)
            case _:
                if line := event_line(event):
                    self.say(line)

    def _move(self, name: str, text: str, done: int, total: int | None) -> None:
        if self._task is None or name != self._name:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._name = self._progress.add_task(name, text=text), name
        self._progress.update(self._task, completed=done, total=total, text=text)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._progress.stop()
