"""Worker processes for decoding: as many as cores, each replaced when a file kills or hangs it.

`concurrent.futures` loses the whole pool with one crashed worker and cannot end a hanging one;
images come from anywhere, so both must cost one file only. pebble can do both, but its processes
are those of `multiprocessing`, which know every secret in the program's environment, and import
the program again: 400 pictures took it a fifth longer, and two of them half a second.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from tenner.core.messages import msg
from tenner.core.secrets import child_environ

_WORTH_SECONDS = 0.05
"""A process takes about as long to start: less work than that is left to the first one."""
Task = dict[str, Any]
Answer = dict[str, Any]
OnDone = Callable[[int, int], None]


def num_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def path_field(path: Path) -> str:
    """A path as it travels in a task: names need not be valid text."""
    return os.fsencode(path).hex()


class WorkerCannotStart(RuntimeError):
    """The worker program itself does not run here: no image is to blame."""


class _Worker:
    """One process and the pipe to it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def request(self, task: Task, timeout_seconds: float) -> Answer:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        timed_out = threading.Event()
        timer = threading.Timer(timeout_seconds, self._kill, (process, timed_out))
        timer.start()
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if line.endswith("\n"):
            return json.loads(line)
        self.stop()
        if timed_out.is_set():
            return {
                "unreadable": msg(
                    "not decoded within {timeout_seconds} seconds",
                    timeout_seconds=f"{timeout_seconds:g}",
                )
            }
        return {"unreadable": msg("damaged: the decoder crashes on it")}

    def _start(self) -> "subprocess.Popen[str]":
        try:
            self._process = _early.pop()
        except IndexError:
            self._process = _launch()
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self.stop()
            raise WorkerCannotStart("python -m tenner.dataset.worker ended at its start")
        return self._process

    @staticmethod
    def _kill(process: "subprocess.Popen[str]", timed_out: threading.Event) -> None:
        timed_out.set()
        process.kill()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _end(process)


def _launch() -> "subprocess.Popen[str]":
    package_root = str(Path(__file__).resolve().parents[2])
    search = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "tenner.dataset.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environ() | {"PYTHONPATH": os.pathsep.join(search)},
        encoding="utf-8",
    )


def _end(process: "subprocess.Popen[str]") -> None:
    """End a worker at once: between two tasks there is nothing that it could lose."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # a dead process left a line unread
                pipe.close()
    process.wait()


_early: list["subprocess.Popen[str]"] = []


@contextlib.contextmanager
def early_workers(num_workers: int = 1) -> Generator[None]:
    """Start processes for the pools to come, while this program still reads its own code.

    Those that no pool took are ended with the context. Raises OSError.
    """
    _early.extend(_launch() for _ in range(min(num_workers, num_cores())))
    try:
        yield
    finally:
        while _early:
            _end(_early.pop())


class WorkerPool:
    """Answers tasks in parallel. Use as a context; workers start with the first tasks."""

    def __init__(self, num_workers: int | None = None, timeout_seconds: float = 120.0) -> None:
        self.num_workers = max(1, min(num_workers or num_cores(), 32))
        self.timeout_seconds = timeout_seconds
        self._workers = [_Worker() for _ in range(self.num_workers)]
        self._alone = threading.Lock()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def run(self, tasks: Sequence[Task], on_done: OnDone | None = None) -> list[Answer]:
        """The answer of each task, in order. `on_done(done, total)` is called in this thread.

        Raises WorkerCannotStart or OSError where no worker runs here.
        """
        answers: list[Answer] = [{} for _ in tasks]
        for done, (index, answer) in enumerate(self._each(tasks), start=1):
            answers[index] = answer
            if on_done:
                on_done(done, len(tasks))
        return answers

    def _each(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Answer]]:
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        answered: queue.SimpleQueue[tuple[int, Answer | Exception]] = queue.SimpleQueue()
        stop = threading.Event()
        for index in range(len(tasks)):
            waiting.put(index)

        def work(worker: _Worker) -> None:
            if worker is not used[0] and (stop.wait(_WORTH_SECONDS) or waiting.empty()):
                return  # the first one did it all meanwhile
            while not stop.is_set():
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    answered.put((index, self._answer(worker, tasks[index])))
                except (OSError, WorkerCannotStart) as error:
                    answered.put((index, error))

        used = self._workers[: len(tasks)]
        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in used]
        for thread in threads:
            thread.start()
        try:
            for _ in tasks:
                index, answer = answered.get()
                if isinstance(answer, Exception):
                    raise answer
                yield index, answer
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _answer(self, worker: _Worker, task: Task) -> Answer:
        answer = worker.request(task, self.timeout_seconds)
        if answer.get("too_big"):
            with self._alone:
                return worker.request({**task, "alone": True}, self.timeout_seconds)
        return answer
