"""A run on a terminal: one bar for what goes on, lines above it for what happened."""

import time
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from tenner.core.errors import Level, Problem
from tenner.core.events import Event, Phase, Step
from tenner.ui.lines import MARKS, event_line, step_line

_STYLES: dict[Level, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def terminal_screen(out: TextIO, *, price_per_hour: float | None = None) -> "TerminalScreen | None":
    """The screen for `out`, where it is a terminal whose cursor can be moved."""
    console = Console(file=out, highlight=False, soft_wrap=True)
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    return TerminalScreen(console, price_per_hour=price_per_hour)


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
        line = Text(f"{MARKS[problem.level]}: ", style=_STYLES[problem.level])
        line.append(problem.text, style="default not bold")
        if problem.fix:
            line.append(f"\n  fix: {problem.fix}", style="dim not bold")
        self._console.print(line)  # in one piece: a live bar swallows what has no line end

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

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
