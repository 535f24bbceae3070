"""A run on a terminal: one live screen of a few rows, and above it what needs attention."""

import threading
import time
from pathlib import Path
from typing import Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tenner.core.errors import Level, Problem
from tenner.core.events import (
    Checkpoint,
    Drew,
    EpochEnd,
    Event,
    Failed,
    Phase,
    Sent,
    Step,
    Warned,
)
from tenner.ui.lines import MARKS, duration, event_line, step_parts
from tenner.ui.screen import AddressOf, problem_of

_STYLES: dict[Level, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_MAX_BAR = 60
_ROWS = ("now", "epoch", "saved", "sent", "samples", "page")
"""The rows below the bar, from top to bottom; a row without content is not shown."""


def terminal_screen(out: TextIO, *, price_per_hour: float | None = None) -> "TerminalScreen | None":
    """The screen for `out`, where it is a terminal whose cursor can be moved."""
    console = Console(file=out, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    return TerminalScreen(console, price_per_hour=price_per_hour)


class TerminalScreen:
    """The run's step, its newest sample and checkpoint and its page's address, in place.

    Lines printed before and after are above it, as are problems; all else only changes a row.
    """

    def __init__(self, console: Console, *, price_per_hour: float | None = None) -> None:
        self._console = console
        self._price_per_hour = price_per_hour
        self._started = time.monotonic()
        self._lock = threading.RLock()
        self._phase: Phase | None = None
        self._step: Step | None = None
        self._rows: dict[str, RenderableType] = {}
        self._live = Live(
            console=console,
            get_renderable=self._frame,
            refresh_per_second=2,
            transient=False,
            vertical_overflow="visible",
        )

    def say(self, text: str = "") -> None:
        self._console.print(text, markup=False)

    def problem(self, problem: Problem) -> None:
        line = Text(f"{MARKS[problem.level]}: ", style=_STYLES[problem.level])
        line.append(problem.text, style="default not bold")
        if problem.fix:
            line.append(f"\n  fix: {problem.fix}", style="dim not bold")
        self._console.print(line)  # in one piece: rich draws the live rows anew after each print

    def show(self, event: Event) -> None:
        with self._lock:
            match event:
                case Step():
                    self._step, self._phase = event, None
                case Phase():
                    self._phase = event
                case EpochEnd(epoch=epoch, num_epochs=num_epochs, loss_avg=loss):
                    self._rows["epoch"] = Text(f"{epoch}/{num_epochs} ended, mean loss {loss:.4f}")
                case Checkpoint(path=path, step=step):
                    self._rows["saved"] = _path(path, f"  (step {step})")
                case Drew(path=path, epoch=epoch):
                    self._rows["samples"] = _path(path, f"  (epoch {epoch})")
                case Sent(what=what, step=step, destination=destination):
                    self._rows["sent"] = Text(f"{what} of step {step} is at {destination}")
                case Warned():
                    self.problem(problem_of(event))
                case Failed():
                    self.problem(problem_of(event))
                case _:
                    if line := event_line(event):
                        self.say(line)

    def show_address(self, what: AddressOf, address: str) -> None:
        with self._lock:
            self._rows[what] = Text(address) if "://" in address else _path(address)

    def _frame(self) -> RenderableType:
        with self._lock:
            rows = dict(self._rows)
            step, phase = self._step, self._phase
        name = "training" if step and not phase else phase.name if phase else "starting"
        head = Text.assemble(
            (name, "bold"), ("  " + duration(time.monotonic() - self._started), "dim")
        )
        parts: list[RenderableType] = [Text(), head]
        if step:
            spent = time.monotonic() - self._started
            known = step_parts(step, price_per_hour=self._price_per_hour, spent_seconds=spent)
            width = min(_MAX_BAR, max(10, self._console.width - 2))
            bar = Table.grid()  # a bar by itself ends no line
            bar.add_row(ProgressBar(total=step.num_steps, completed=step.step, width=width))
            parts += [bar, Text("  ".join(known))]
        if phase and (text := _phase_text(phase)):
            rows["now"] = Text(text)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for row in _ROWS:
            if row in rows:
                table.add_row(row, rows[row])
        return Group(*parts, table)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def _phase_text(phase: Phase) -> str:
    if phase.done is None:
        return phase.detail
    return f"{phase.done}/{phase.total or '?'}  {phase.detail}".rstrip()


def _path(path: str, more: str = "") -> Text:
    """A path that terminals open at a click, where they can; it stands there whole."""
    return Text.assemble((path, f"link {Path(path).absolute().as_uri()}"), (more, "dim"))
