"""Moments of a start, given by the lines in its log, so that a busy machine shifts none."""

import bisect
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Moment:
    """`seconds` after the log has got `lines` lines."""

    lines: int
    seconds: float


@dataclass(kw_only=True)
class Pace:
    """The undisturbed run: when each line came into its log, and when it ended, in seconds."""

    lines: list[float] = field(default_factory=list[float])
    total: float = 0.0

    def moment(self, share: float) -> Moment:
        """When this share of the undisturbed run's time had passed."""
        at = share * self.total
        before = bisect.bisect_right(self.lines, at)
        return Moment(lines=before, seconds=at - (self.lines[before - 1] if before else 0.0))


class Clock:
    """Measures a start by the lines of its log, which need not exist yet."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._before = self._num_lines()
        self._since = [time.monotonic()]

    def has_passed(self, moment: Moment) -> bool:
        """Whether this start is past the moment. Notes the arrival of new lines on the way."""
        now = time.monotonic()
        more = self._num_lines() - self._before - (len(self._since) - 1)
        self._since += [now] * more
        return len(self._since) > moment.lines and (
            now >= self._since[moment.lines] + moment.seconds
        )

    def seconds(self) -> list[float]:
        """When each line came, from the start."""
        return [each - self._since[0] for each in self._since[1:]]

    def _num_lines(self) -> int:
        return self._log.read_bytes().count(b"\n") if self._log.is_file() else 0
