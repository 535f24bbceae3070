"""Who watches a running engine, and what each may ask for: a word, an orderly end, an end at once.

Guards hear every event as it comes, and are asked about once a second besides, whether lines come
or not.
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
"""Loading, caching latents and compiling may be silent for long, so the limit is wide there."""
LEAST_SECONDS = 900.0
"""No run is called hung sooner: a save to a slow network disk is silent for minutes."""
STEP_TIMES = 50.0
"""A slow engine is given this many of its own median steps."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a guard found. `end` says what becomes of the program: it goes on, it is asked to save
    and end (SIGTERM), or it ends at once (SIGKILL)."""

    event: Event | None = None
    end: Literal["no", "ask", "now"] = "no"
    reason: Reason = ""


class Guard(Protocol):
    """Watches one engine. Both calls come from the thread that follows it."""

    def heard(self, event: Event | None) -> Verdict | None:
        """A line came; `event` is what it meant, None where it meant nothing."""
        ...

    def check(self) -> Verdict | None:
        """Called about once a second."""
        ...


@dataclass(kw_only=True)
class Guards:
    """Several guards as one: the gravest verdict counts, words of the others are not lost."""

    each: Sequence[Guard]

    def heard(self, event: Event | None) -> list[Verdict]:
        return [found for guard in self.each if (found := guard.heard(event))]

    def check(self) -> list[Verdict]:
        return [found for guard in self.each if (found := guard.check())]


@dataclass(kw_only=True)
class StallGuard:
    """Tells that an engine has said nothing for far longer than its own steps take."""

    now: Callable[[], float] = time.monotonic
    heard_at: float | None = None
    step_at: float | None = None
    steps_seconds: deque[float] = field(default_factory=lambda: deque[float](maxlen=100))

    def heard(self, event: Event | None) -> Verdict | None:
        self.heard_at = self.now()
        if isinstance(event, Step):
            if self.step_at is not None:
                self.steps_seconds.append(self.heard_at - self.step_at)
            self.step_at = self.heard_at
        return None

    @property
    def limit_seconds(self) -> float:
        """The longest silence that is still taken for work."""
        if not self.steps_seconds:
            return BEFORE_FIRST_STEP_SECONDS
        return max(LEAST_SECONDS, STEP_TIMES * statistics.median(self.steps_seconds))

    def check(self) -> Verdict | None:
        """The clock starts at the first call."""
        if self.heard_at is None:
            self.heard_at = self.now()
        silent = self.now() - self.heard_at
        if silent <= self.limit_seconds:
            return None
        failed = Failed(
            kind="host",
            text=msg(
                "the trainer has said nothing for {silent} minutes: it hangs",
                silent=f"{silent / 60:.0f}",
            ),
            fix=msg(
                "start the same command again: it goes on from the last state; if it hangs"
                " again, rent another machine"
            ),
        )
        return Verdict(event=failed, end="now", reason="stall")


class NanGuard:
    """Ends an engine that goes on although its loss or its inputs are no numbers any more."""

    def heard(self, event: Event | None) -> Verdict | None:
        if isinstance(event, Failed) and event.kind == "nan":
            return Verdict(end="now", reason="nan")
        return None

    def check(self) -> Verdict | None:
        return None


@dataclass(kw_only=True)
class StopFileGuard:
    """For an engine that knows no stop file: it is ended once its next checkpoint and the state
    beside it are saved."""

    stop_file: Path
    _weights_of: int = -1

    def heard(self, event: Event | None) -> Verdict | None:
        if isinstance(event, Checkpoint):
            self._weights_of = event.step
        saved = isinstance(event, StateSaved) and event.step == self._weights_of
        if isinstance(event, StateSaved) and saved and self.stop_file.exists():
            text = msg(
                "ending after step {step}, as {name} asks",
                step=event.step,
                name=self.stop_file.name,
            )
            note = Warned(text=text, level="note")
            return Verdict(event=note, end="ask", reason="stop_file")
        return None

    def check(self) -> Verdict | None:
        return None


class DoneGuard:
    """Ends an engine whose last word is that its final weights are whole: to take itself apart,
    after that, takes sd-scripts two seconds and more."""

    def heard(self, event: Event | None) -> Verdict | None:
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

    def heard(self, event: Event | None) -> Verdict | None:
        if not isinstance(event, Step):
            if event is not None:
                self._step_at = None  # saving, encoding and the like are no part of a step
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
