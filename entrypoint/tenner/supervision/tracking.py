"""Sends a run's numbers to trackers (Weights & Biases and others), in a separate process.

The training never waits for a tracker, and one that fails is reported once and not used any more.
"""

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tenner.core.command import Command
from tenner.core.events import EpochEnd, Event, Step, Validated, Warned
from tenner.core.messages import msg
from tenner.core.parent_death import dying_with_parent
from tenner.core.secrets import Secrets
from tenner.engines.trackers import TrackedRun

LAST_SECONDS = 60.0
"""The time for trackers to send the rest after the run."""
_MOST_WAITING = 20_000


class Tracking:
    """A context around a run; `handle` takes its events. `seconds_left` is the time that trackers
    may take at the end."""

    def __init__(
        self,
        run: TrackedRun,
        command: Command,
        *,
        secrets: Secrets,
        on_event: Callable[[Event], None],
        seconds_left: Callable[[], float] = lambda: LAST_SECONDS,
    ) -> None:
        self._run = run
        self._command = command
        self._secrets = secrets
        self._on_event = on_event
        self._seconds_left = seconds_left
        self._lines: queue.Queue[str | None] = queue.Queue(maxsize=_MOST_WAITING)
        self._process: subprocess.Popen[str] | None = None
        self._threads: list[threading.Thread] = []
        self._is_open = set(run.names)
        self._step = 0

    def __enter__(self) -> "Tracking":
        if not self._run.names:
            return self
        environment = dict(self._command.env)
        try:
            self._process = subprocess.Popen(
                dying_with_parent(self._command.argv, environment),
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            self._warn_all(error.strerror or type(error).__name__)
            return self
        self._put(self._run.to_json())
        for name, work in (("trackers", self._write), ("trackers-read", self._read)):
            thread = threading.Thread(target=work, args=(self._process,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *of_the_error: object) -> None:
        process = self._process
        if process is None:
            return
        self._put(None)
        limit = max(0.5, min(LAST_SECONDS, self._seconds_left()))
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            text = msg("it did not accept the last numbers within {limit} s", limit=round(limit))
            self._warn_all(text)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # with the programs that trackers started
        process.wait()
        for thread in self._threads:
            thread.join(2.0)
        if self._is_open:
            self._warn_all(msg("its process ended with code {code}", code=process.returncode))

    def handle(self, event: Event) -> None:
        """Take in an event of the run."""
        match event:
            case Step():
                self._step = event.step
                rates = {f"lr/{name}": rate for name, rate in event.lr.items()}
                self._log(
                    {
                        "loss/current": event.loss,
                        "loss/average": event.loss_avg,
                        "images_per_second": event.images_per_second,
                        "epoch": event.epoch,
                        **rates,
                    }
                )
            case EpochEnd():
                self._log({"loss/epoch_average": event.loss_avg})
            case Validated():
                self._log({"loss/validation": event.loss})
            case _:
                pass

    def _log(self, values: Mapping[str, float]) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if self._process is not None and self._is_open:
            self._put(json.dumps({"step": self._step, "values": finite}))

    def _put(self, line: str | None) -> None:
        with contextlib.suppress(queue.Full):  # a tracker that has taken nothing for hours
            self._lines.put_nowait(line)

    def _write(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended, which `__exit__` reports
            while (line := self._lines.get()) is not None:
                process.stdin.write(line + "\n")
                process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with contextlib.suppress(ValueError, KeyError):
                    self._take(json.loads(line))

    def _take(self, answer: Mapping[str, Any]) -> None:
        """One answer of the process."""
        name = str(answer["tracker"])
        if package := answer.get("missing"):
            self._is_open.discard(name)
            fix = msg("pip install {package} in the trainer's Python", package=package)
            text = msg("log_with = {name}: it is not installed", name=name)
            self._on_event(Warned(text=text, fix=fix))
        elif "problem" in answer:
            self._is_open.discard(name)
            self._warn(name, self._secrets.redact(str(answer["problem"])))
        elif address := answer.get("address"):
            shown = self._secrets.redact(str(address))
            text = msg("{name} shows this run at {address}", name=name, address=shown)
            self._on_event(Warned(text=text, level="note"))
        elif "ended" in answer:
            self._is_open.discard(name)
            if folder := answer["ended"]:
                text = msg("{name} stored this run in {folder}", name=name, folder=folder)
                fix = msg("send it with: wandb sync {folder}", folder=folder)
                self._on_event(Warned(text=text, fix=fix, level="note"))

    def _warn_all(self, trouble: str) -> None:
        for name in sorted(self._is_open):
            self._warn(name, trouble)
        self._is_open.clear()

    def _warn(self, name: str, trouble: str) -> None:
        text = msg("{name} does not record this run: {trouble}", name=name, trouble=trouble)
        self._on_event(Warned(text=text, fix=msg("the report and the TensorBoard log continue")))
