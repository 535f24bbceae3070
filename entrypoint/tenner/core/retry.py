"""Which errors are retried, how often, and when to stop.

Three kinds of failure: a `TransientError` (server errors, cuts, timeouts, a remote file that is not
yet what was sent) is tried again until the time is up; a `PermanentError` (no permission, no such
bucket) is tried three times, since fresh keys take seconds to reach every server; anything else is
our bug and is raised at once.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from tenner.core.errors import Problem
from tenner.core.messages import msg

T = TypeVar("T")
_REFUSALS_TRIED = 3
_LONGEST_WAIT_SECONDS = 30


class TransientError(Exception):
    """An error that may be gone at the next try."""


class OutOfTime(TransientError):
    """The deadline passed."""


class PermanentError(Exception):
    """The other side refused; `problem` carries the fix, `code` the other side's error code."""

    def __init__(self, problem: Problem, *, code: str = "") -> None:
        super().__init__(problem.text)
        self.problem = problem
        self.code = code


class Deadline:
    """A total limit in seconds, shared by all steps of one task."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._cancelled = threading.Event()

    def remaining(self) -> float:
        """Seconds left, never negative; 0 once cancelled."""
        return 0.0 if self._cancelled.is_set() else max(0.0, self._end - time.monotonic())

    def passed(self) -> bool:
        return self.remaining() <= 0

    def cancel(self) -> None:
        """End every wait under this deadline now."""
        self._cancelled.set()

    def extend(self, seconds: float) -> None:
        """Allow `seconds` more, for local work that the limit does not cover."""
        self._end += seconds

    def check(self) -> None:
        """Raise OutOfTime where the time is up."""
        if self.passed():
            raise OutOfTime(
                msg("the time limit of {seconds} s is reached", seconds=f"{self.seconds:.0f}")
            )

    def reporting_to(self, report: Callable[[str], None]) -> "Deadline":
        """The same limit for one destination, whose errors are given to `report`."""
        return _ReportingDeadline(self, report)

    def report(self, trouble: str) -> None:
        """Called with the text of each error that is retried. Does nothing here."""

    def sleep(self, seconds: float) -> None:
        """Wait, no longer than the time left."""
        self._cancelled.wait(min(seconds, self.remaining()))


class _ReportingDeadline(Deadline):
    """A deadline that shares another's limit and reports errors to a function of its own."""

    def __init__(self, parent: Deadline, report: Callable[[str], None]) -> None:
        self.seconds = parent.seconds
        self._parent = parent
        self._report = report

    def remaining(self) -> float:
        return self._parent.remaining()

    def cancel(self) -> None:
        self._parent.cancel()

    def extend(self, seconds: float) -> None:
        self._parent.extend(seconds)

    def report(self, trouble: str) -> None:
        self._report(trouble)

    def sleep(self, seconds: float) -> None:
        self._parent.sleep(seconds)


def retry_policy(
    is_passing: Callable[[BaseException], bool],
    stop: Callable[[RetryCallState], bool],
    *,
    first_seconds: float = 0.25,
    longest_seconds: float = _LONGEST_WAIT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    on_retry: Callable[[RetryCallState], None] | None = None,
) -> Retrying:
    """How everything is tried again: errors that are passing, until `stop`, whose error is raised.

    A wait is chosen at random below `first_seconds`, doubled each time up to `longest_seconds`, so
    that many programs that met one error do not retry together.
    """
    return Retrying(
        retry=retry_if_exception(is_passing),
        stop=stop,
        wait=wait_random_exponential(multiplier=first_seconds, max=longest_seconds),
        sleep=sleep,
        before_sleep=on_retry,
        reraise=True,
    )


def retrying(
    deadline: Deadline,
    action: Callable[[], T],
    *,
    on_retry: Callable[[str], None] | None = None,
    max_refusals: int = _REFUSALS_TRIED,
) -> T:
    """Do `action` until it works, the deadline passes, or it is refused `max_refusals` times.

    Waits 0.25 s at first, doubling to 30 s, jittered. Each error that is tried again is given to
    `on_retry`, by default to the deadline's `report`.

    Raises the last TransientError or PermanentError.
    """
    refusals = 0
    last: BaseException | None = None

    def ended(state: RetryCallState) -> bool:
        nonlocal refusals, last
        trouble = state.outcome.exception() if state.outcome else None
        last = last if isinstance(trouble, OutOfTime) and last else trouble
        refusals += isinstance(trouble, PermanentError)
        return deadline.passed() or refusals >= max_refusals

    def report_retry(state: RetryCallState) -> None:
        trouble = state.outcome.exception() if state.outcome else None
        if trouble:
            (on_retry or deadline.report)(str(trouble))

    again = retry_policy(
        lambda error: isinstance(error, TransientError | PermanentError),
        ended,
        sleep=deadline.sleep,
        on_retry=report_retry,
    )
    try:
        return again(action)
    except OutOfTime as late:
        if last is None or last is late:
            raise
        raise last from late  # the cause explains more than that the time is up
