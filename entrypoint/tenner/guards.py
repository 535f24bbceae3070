"""When a running engine counts as hung: by its own step time, never by a guess at its speed."""

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tenner.events import Event, Failed, Step

BEFORE_FIRST_STEP_SECONDS = 3600.0
"""Loading, caching latents and compiling may be silent for long, so the limit is wide there."""
LEAST_SECONDS = 900.0
"""No run is called hung sooner: a save to a slow network disk is silent for minutes."""
STEP_TIMES = 50.0
"""A slow engine is given this many of its own median steps."""


@dataclass(kw_only=True)
class StallGuard:
    """Tells that an engine has said nothing for far longer than its own steps take."""

    now: Callable[[], float] = time.monotonic
    heard_at: float | None = None
    step_at: float | None = None
    steps_seconds: deque[float] = field(default_factory=lambda: deque[float](maxlen=100))

    def heard(self, event: Event | None) -> None:
        """Note a line of the engine; `event` is what it meant, None where it meant nothing."""
        self.heard_at = self.now()
        if isinstance(event, Step):
            if self.step_at is not None:
                self.steps_seconds.append(self.heard_at - self.step_at)
            self.step_at = self.heard_at

    @property
    def limit_seconds(self) -> float:
        """The longest silence that is still taken for work."""
        if not self.steps_seconds:
            return BEFORE_FIRST_STEP_SECONDS
        return max(LEAST_SECONDS, STEP_TIMES * statistics.median(self.steps_seconds))

    def stalled(self) -> Failed | None:
        """The failure to report where the engine hangs. The clock starts at the first call."""
        if self.heard_at is None:
            self.heard_at = self.now()
        silent = self.now() - self.heard_at
        if silent <= self.limit_seconds:
            return None
        return Failed(
            kind="host",
            text=f"the trainer has said nothing for {silent / 60:.0f} minutes: it hangs",
            fix="start the same command again: it goes on from the last state; "
            "if it hangs again, rent another machine",
        )
