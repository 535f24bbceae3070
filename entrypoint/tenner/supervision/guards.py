"""Guards watch a running engine and may warn, have it save and end, or end it at once.

A guard gets every event as it comes, and is polled about once a second as well.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from tenner.core.events import Checkpoint, Done, Event, Failed, StateSaved, Step, Warned
from tenner.core.messages import msg

Reason = Literal["", "stall", "nan", "host", "budget", "stop_file", "left", "done", "disk"]

BEFORE_FIRST_STEP_SECONDS = 3600.0
"""Loading, caching latents and compiling may take long without output."""
LEAST_SECONDS = 900.0
"""The shortest limit: a save to a slow network disk takes minutes without output."""
STEP_TIMES = 50.0
"""The limit in median steps of the run, for slow engines."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a guard found. `end` is what the program has to do: nothing, `save` and then end
    (SIGTERM), or end `now` (SIGKILL)."""

    event: Event | None = None
    end: Literal["no", "save", "now"] = "no"
    reason: Reason = ""


class Guard(Protocol):
    """Watches one engine. Both methods are called on the thread that follows it."""

    def handle(self, event: Event | None) -> Verdict | None:
        """Called for each line of output; `event` is None where the line is none."""
        ...

    def check(self) -> Verdict | None:
        """Called about once a second."""
        ...


@dataclass(kw_only=True)
class Guards:
    """Several guards; returns the verdicts of all."""

    each: Sequence[Guard]

    def handle(self, event: Event | None) -> list[Verdict]:
        return [found for guard in self.each if (found := guard.handle(event))]

    def check(self) -> list[Verdict]:
        return [found for guard in self.each if (found := guard.check())]


@dataclass(kw_only=True)
class StallGuard:
    """Ends an engine that has written no line for far longer than its own steps take."""

    now: Callable[[], float] = time.monotonic
    last_line_at: float | None = None
    step_at: float | None = None
    steps_seconds: deque[float] = field(default_factory=lambda: deque[float](maxlen=100))

    def handle(self, event: Event | None) -> Verdict | None:
        self.last_line_at = self.now()
        if isinstance(event, Step):
            if self.step_at is not None:
                self.steps_seconds.append(self.last_line_at - self.step_at)
            self.step_at = self.last_line_at
        return None

    @property
    def limit_seconds(self) -> float:
        """The seconds without output after which the engine counts as hung."""
        if not self.steps_seconds:
            return BEFORE_FIRST_STEP_SECONDS
        return max(LEAST_SECONDS, STEP_TIMES * statistics.median(self.steps_seconds))

    def check(self) -> Verdict | None:
        """Compare the silence with the limit; the first call starts the clock."""
        if self.last_line_at is None:
            self.last_line_at = self.now()
        silent = self.now() - self.last_line_at
        if silent <= self.limit_seconds:
            return None
        failed = Failed(
            kind="host",
            text=msg(
                "no output of the trainer for {silent} minutes: it hangs",
                silent=f"{silent / 60:.0f}",
            ),
            fix=msg(
                "start the same command again: it resumes from the last state; if it hangs"
                " again, rent another machine"
            ),
        )
        return Verdict(event=failed, end="now", reason="stall")


class NanGuard:
    """Ends an engine whose loss or inputs are not finite any more."""

    def handle(self, event: Event | None) -> Verdict | None:
        if isinstance(event, Failed) and event.kind == "nan":
            return Verdict(end="now", reason="nan")
        return None

    def check(self) -> Verdict | None:
        return None


@dataclass(kw_only=True)
class StopFileGuard:
    """For an engine that does not support a stop file: it is ended once its next checkpoint and the
    state beside it are saved."""

    stop_file: Path
    _weights_of: int = -1

    def handle(self, event: Event | None) -> Verdict | None:
        if isinstance(event, Checkpoint):
            self._weights_of = event.step
        saved = isinstance(event, StateSaved) and event.step == self._weights_of
        if isinstance(event, StateSaved) and saved and self.stop_file.exists():
            text = msg(
                "ending after step {step}, as {name} requests",
                step=event.step,
                name=self.stop_file.name,
            )
            note = Warned(text=text, level="note")
            return Verdict(event=note, end="save", reason="stop_file")
        return None

    def check(self) -> Verdict | None:
        return None


class DoneGuard:
    """Ends an engine that has reported its final weights: its own shutdown takes sd-scripts two
    seconds and more."""

    def handle(self, event: Event | None) -> Verdict | None:
        return Verdict(end="now", reason="done") if isinstance(event, Done) else None

    def check(self) -> Verdict | None:
        return None


@dataclass(kw_only=True)
class SlowGuard:
    """Warns, with the numbers, when steps take far longer than this run's own usual ones."""

    now: Callable[[], float] = time.monotonic
    times: float = 2.0
    window: int = 20
    _usual: deque[float] = field(default_factory=lambda: deque[float](maxlen=500))
    _latest: deque[float] = field(default_factory=lambda: deque[float](maxlen=20))
    _step_at: float | None = None
    _is_slow: bool = False

    def handle(self, event: Event | None) -> Verdict | None:
        if not isinstance(event, Step):
            if event is not None:
                self._step_at = None  # its time would include saving or encoding
            return None
        now, before = self.now(), self._step_at
        self._step_at = now
        if before is None:
            return None
        self._latest.append(now - before)
        if len(self._latest) < self.window:
            self._usual.append(now - before)
            return None
        usual, latest = statistics.median(self._usual), statistics.median(self._latest)
        was_slow, self._is_slow = self._is_slow, latest > self.times * usual
        if not self._is_slow:
            self._usual.append(now - before)
        if not self._is_slow or was_slow:
            return None
        text = msg(
            "a step takes {latest} s now, and took {usual} s before",
            latest=f"{latest:.2f}",
            usual=f"{usual:.2f}",
        )
        fix = msg("another program uses this card or CPU, or it is throttled: see nvidia-smi")
        return Verdict(event=Warned(text=text, fix=fix))

    def check(self) -> Verdict | None:
        return None
