"""Work side by side on threads that can be left behind.

A library call that never returns must not hold a run past its deadline, nor the interpreter at its
end; so these are daemon threads, and waiting for them ends with the deadline and a short grace.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from tenner.core.retry import Deadline, TransientError

T = TypeVar("T")
_GRACE_SECONDS = 2.0
_TURN_SECONDS = 0.5


def in_parallel(
    jobs: Sequence[Callable[[], T]], *, num_workers: int, deadline: Deadline, name: str
) -> list[T | BaseException]:
    """Run all jobs; for each, its result or what it raised, in order.

    A job that is still running `_GRACE_SECONDS` after the deadline is left behind and counts as
    Passing; its thread ends at its own next look at the deadline.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[int, T | BaseException]] = queue.SimpleQueue()
    for index in range(len(jobs)):
        waiting.put(index)

    def work() -> None:
        while True:
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((index, jobs[index]()))
            except BaseException as error:  # noqa: BLE001  (handed to the caller)
                ended.put((index, error))

    for number in range(min(num_workers, len(jobs))):
        threading.Thread(target=work, name=f"{name}-{number}", daemon=True).start()
    late = TransientError(f"no answer within {deadline.seconds:.0f} s")
    results: list[T | BaseException] = [late] * len(jobs)
    for _ in jobs:
        if (each := _next_ended(ended, deadline)) is None:
            break
        results[each[0]] = each[1]
    return results


def _next_ended(ended: "queue.SimpleQueue[T]", deadline: Deadline) -> T | None:
    """What ends next, or None some time after the deadline. Waits in short turns, since a
    deadline may be cancelled meanwhile."""
    while True:
        over = deadline.passed()
        try:
            return ended.get(timeout=_GRACE_SECONDS if over else _TURN_SECONDS)
        except queue.Empty:
            if over:
                return None


def first_error(results: Sequence[object]) -> BaseException | None:
    """The gravest of what was raised: a bug before a refusal, a refusal before a passing one."""
    errors = [result for result in results if isinstance(result, BaseException)]
    return min(errors, key=lambda error: isinstance(error, TransientError), default=None)
