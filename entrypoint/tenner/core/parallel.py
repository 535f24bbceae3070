"""Parallel work on threads that can be abandoned.

A library call that never returns must not hold a run past its deadline, nor the interpreter at its
end. `ThreadPoolExecutor` joins its threads when the interpreter exits, and pebble's pool when it is
stopped. So these are daemon threads, and waiting for them ends with the deadline and a short grace.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, wait
from functools import partial
from typing import Any, ParamSpec, TypeVar

from tenner.core.messages import msg
from tenner.core.retry import Deadline, TransientError

P = ParamSpec("P")
T = TypeVar("T")
_GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.5


class DaemonExecutor(Executor):
    """An executor of at most `max_workers` daemon threads, each started with the task it is for."""

    def __init__(self, max_workers: int, name: str = "tenner") -> None:
        self._max_workers = max_workers
        self._name = name
        self._threads: list[threading.Thread] = []
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        self._waiting.put(partial(_fulfil, future, partial(fn, *args, **kwargs)))
        if len(self._threads) < self._max_workers:
            name = f"{self._name}-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while task := self._waiting.get():
            task()


def _fulfil(future: Future[Any], action: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(action())
    except BaseException as error:  # noqa: BLE001  (passed to the waiting caller)
        future.set_exception(error)


def in_parallel(
    jobs: Sequence[Callable[[], T]], *, num_workers: int, deadline: Deadline, name: str
) -> list[T | BaseException]:
    """Run all jobs; for each, its result or what it raised, in order.

    A job that is still running `_GRACE_SECONDS` after the deadline is abandoned and counts as a
    TransientError; its thread ends when it next checks the deadline.
    """
    executor = DaemonExecutor(num_workers, name)
    futures = [executor.submit(job) for job in jobs]
    executor.shutdown(wait=False)
    pending = set(futures)
    while pending:  # in short turns, since a deadline may be cancelled meanwhile
        is_over = deadline.passed()
        pending = wait(pending, _GRACE_SECONDS if is_over else _POLL_SECONDS).not_done
        if is_over:
            break
    late = TransientError(msg("no answer within {seconds} s", seconds=f"{deadline.seconds:.0f}"))
    return [_outcome(future) if future not in pending else late for future in futures]


def _outcome(future: Future[T]) -> T | BaseException:
    error = future.exception()
    return future.result() if error is None else error


def first_error(results: Sequence[object]) -> BaseException | None:
    """The most severe of the errors: any other comes before a TransientError. None where there are
    none."""
    errors = [result for result in results if isinstance(result, BaseException)]
    return min(errors, key=lambda error: isinstance(error, TransientError), default=None)
