"""What happened in a run so far, kept up to date event by event, over all its attempts.

Reading a long run's whole log for every page would cost more with every step. Here each event
updates the series in memory, at a cost that does not grow, and a page is made from these.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tenner.core.events import EpochEnd, Event, Phase, Step, Validated, Warned, event_of
from tenner.report.facts import LossCurve, Notice

MAX_WARNINGS = 40
_RECENT_STEPS = 50
_FEW_STEPS = 5


@dataclass(kw_only=True)
class History:
    """Steps, losses and rates in order, the warnings, and the current phase.

    A step that is trained again after a kill counts once, with the values of its last training.
    """

    now: Callable[[], float] = time.monotonic
    steps: list[int] = field(default_factory=list[int])
    losses: list[float] = field(default_factory=list[float])
    rates: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """A series for each part that is trained, as long as `steps`."""
    epoch_ends: dict[int, int] = field(default_factory=dict[int, int])
    validation: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    warnings: dict[str, Notice] = field(default_factory=dict[str, Notice])
    last: Step | None = None
    phase: str = ""
    _recent: deque[float] = field(default_factory=lambda: deque[float](maxlen=_RECENT_STEPS))

    @classmethod
    def of_log(
        cls, lines: Iterable[Mapping[str, Any]], *, now: Callable[[], float] = time.monotonic
    ) -> "History":
        """The history that the lines of an `events.jsonl` add up to."""
        history = cls(now=now)
        for line in lines:
            event = event_of(line)
            if event is not None:
                history.handle(event)
        history._recent.clear()  # their times are those of reading the log
        return history

    def handle(self, event: Event) -> None:
        """Add one event to the history."""
        match event:
            case Step():
                self._step(event)
            case EpochEnd(epoch=epoch):
                self.epoch_ends[epoch] = self.steps[-1] if self.steps else 0
            case Validated(step=step, loss=loss):
                self.validation = [each for each in self.validation if each[0] < step]
                self.validation.append((step, loss))
            case Warned(text=text, fix=fix, level=level):
                self.warnings.pop(text, None)
                self.warnings[text] = Notice(text=text, fix=fix, level=level)
                while len(self.warnings) > MAX_WARNINGS:
                    del self.warnings[next(iter(self.warnings))]
            case Phase(name=name):
                self.phase = name
            case _:
                pass

    def _step(self, event: Step) -> None:
        """Append a step. Steps at or after it, of an attempt that was killed, are removed first,
        and with them the ends of their epochs."""
        again = bool(self.steps) and self.steps[-1] >= event.step
        while self.steps and self.steps[-1] >= event.step:
            for series in (self.steps, self.losses, *self.rates.values()):
                series.pop()
        if again:
            ends = self.epoch_ends.items()
            self.epoch_ends = {epoch: end for epoch, end in ends if end < event.step}
        for name in event.lr.keys() - self.rates.keys():
            self.rates[name] = [0.0] * len(self.steps)
        self.steps.append(event.step)
        self.losses.append(event.loss)
        for name, series in self.rates.items():
            series.append(event.lr.get(name, 0.0))
        self.last = event
        self._recent.append(self.now())

    @property
    def seconds_left(self) -> float | None:
        """Time to the last step, at the pace of the latest steps; None where none is known."""
        if self.last is None:
            return None
        times, per_step = self._recent, self.last.seconds_per_step
        if len(times) > _FEW_STEPS:
            per_step = (times[-1] - times[0]) / (len(times) - 1)
        left = self.last.num_steps - self.last.step
        return left * per_step if per_step > 0 and math.isfinite(per_step) else None

    @property
    def notices(self) -> tuple[Notice, ...]:
        """The warnings and notes of the run, each once, the latest last."""
        return tuple(self.warnings.values())

    def curve(self) -> LossCurve:
        """The loss of every step seen."""
        return LossCurve(
            steps=list(self.steps),
            losses=list(self.losses),
            learning_rates={name: list(self.rates[name]) for name in sorted(self.rates)},
            epoch_ends=sorted(set(self.epoch_ends.values())),
            validation=[each for each in self.validation if math.isfinite(each[1])],
        )
