"""The worker's process: started when first needed, ended with the batch."""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from tenner.core.command import CHILD_DEFAULTS, Command
from tenner.warm.client import MODULE as CLIENT
from tenner.warm.client import Connection

WORKER = "tenner.warm.worker"
WARM_MODULES = ("tenner.engines.native.train", "tenner.sample.draw")
"""The modules that a worker runs; every other command is started as its own process."""
_SECONDS_TO_START = 120.0
_SECONDS_TO_END = 10.0


@dataclass(kw_only=True)
class _Worker:
    """A worker process: its socket, and the Python and environment it was started with."""

    process: subprocess.Popen[bytes]
    address: Path
    python: str
    environ: dict[str, str]

    def is_busy(self) -> bool | None:
        """Whether it runs a job; None where it does not answer."""
        try:
            with contextlib.closing(Connection(self.address)) as connection:
                connection.send({"state": True})
                answer = connection.receive()
        except OSError:
            return None
        return bool(answer["busy"]) if answer else None

    def wait_until_ready(self) -> bool:
        """Wait until it answers; False where it ended, or did not within two minutes."""
        until = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < until and self.process.poll() is None:
            if self.is_busy() is not None:
                return True
            time.sleep(0.02)
        return False

    def end(self) -> None:
        """Close its input, upon which it ends; one that hangs is killed."""
        with contextlib.suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()
        try:
            self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(kw_only=True)
class WarmTrainer:
    """Starts commands in a warm worker where it can (`launch`). A context: the worker ends with it.

    The worker's own output is appended to `log`.
    """

    log: Path
    _folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="tenner-warm-")))
    _worker: _Worker | None = None
    _number: int = 0

    def launch(self, command: Command, environ: Mapping[str, str]) -> Command:
        """The command as a client of the worker; unchanged where the worker cannot run it, or is
        busy."""
        python, *arguments = command.argv
        if arguments[:1] != ["-m"] or arguments[1] not in WARM_MODULES:
            return command
        if self._worker is not None and self._worker.is_busy():
            return command  # pictures during the training
        worker = self._worker_for(python, {**environ, **command.env})
        if worker is None:
            return command
        return replace(command, argv=(python, "-m", CLIENT, str(worker.address), *arguments[1:]))

    def rest(self) -> None:
        """End an idle worker to free its memory on the card; the next job starts another."""
        if self._worker is not None and not self._worker.is_busy():
            self._worker.end()
            self._worker = None

    def _worker_for(self, python: str, environ: dict[str, str]) -> _Worker | None:
        """The running worker, or a new one where it ended or has another Python or environment;
        None where it cannot be started."""
        worker = self._worker
        if worker:
            fits = (worker.python, worker.environ) == (python, environ)
            if fits and worker.is_busy() is not None:
                return worker
            worker.end()
        self._worker = self._start(python, environ)
        return self._worker if self._worker.wait_until_ready() else None

    def _start(self, python: str, environ: dict[str, str]) -> _Worker:
        self._number += 1
        address = self._folder / f"{self._number}.sock"
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [python, "-m", WORKER, str(address)],
                env={**CHILD_DEFAULTS, **environ},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return _Worker(process=process, address=address, python=python, environ=environ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker:
            self._worker.end()
        shutil.rmtree(self._folder, ignore_errors=True)
