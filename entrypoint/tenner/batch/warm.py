"""The built-in trainer kept warm between jobs: one worker process, started when first needed."""

import contextlib
import fcntl
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from tenner.engines import Command
from tenner.engines.diffusers.errand import MODULE as ERRAND
from tenner.engines.diffusers.errand import ending_file, queue_file
from tenner.temporary_files import folder_prefix

WORKER = "tenner.engines.diffusers.worker"
WARM_MODULES = ("tenner.engines.diffusers.train", "tenner.sample.draw")
"""What a worker does; everything else is started anew, as always."""
_SECONDS_TO_START = 120.0
_SECONDS_TO_END = 10.0


@dataclass(kw_only=True)
class _Worker:
    """A worker process, where it listens, and what it was started with."""

    process: subprocess.Popen[bytes]
    address: Path
    python: str
    environ: dict[str, str]

    def is_idle(self) -> bool:
        """Whether no errand is under way."""
        with queue_file(self.address).open("a") as queue:
            try:
                fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
        return True

    def listens(self) -> bool:
        """Whether it takes work now."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(str(self.address))
        except OSError:
            return False
        return True

    def gets_ready(self) -> bool:
        """Wait until it takes work; False where it ended instead."""
        until = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < until and self.process.poll() is None:
            if self.listens():
                return True
            time.sleep(0.02)
        return False

    def end(self) -> None:
        """Close its input, by which it ends; one that hangs is killed."""
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
    """Its `launch` starts work as errands to a worker. Used as a context: the worker ends with it.

    What the worker itself prints goes to `log`.
    """

    log: Path
    _folder: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix=folder_prefix("warm")))
    )
    _worker: _Worker | None = None
    _number: int = 0

    def launch(self, command: Command, environ: Mapping[str, str]) -> Command:
        """The command as an errand, where it is work for a worker and the worker is free."""
        python, *words = command.argv
        if words[:1] != ["-m"] or words[1] not in WARM_MODULES:
            return command
        if self._worker is not None and not self._worker.is_idle():
            return command  # work beside work: pictures while the training goes on
        worker = self._for(python, {**environ, **command.env})
        if worker is None:
            return command
        return replace(command, argv=(python, "-m", ERRAND, str(worker.address), *words[1:]))

    def rest(self) -> None:
        """End an idle worker, so that what it keeps on the card is free; the next errand starts
        another."""
        if self._worker is not None and self._worker.is_idle():
            self._worker.end()
            self._worker = None

    def _for(self, python: str, environ: dict[str, str]) -> _Worker | None:
        """The worker that is there, or a new one where it ended or other work needs another; None
        where it cannot be started."""
        worker = self._worker
        if worker and (worker.python, worker.environ) == (python, environ) and worker.listens():
            return worker
        if worker:
            worker.end()
        self._worker = self._start(python, environ)
        return self._worker if self._worker.gets_ready() else None

    def _start(self, python: str, environ: dict[str, str]) -> _Worker:
        self._number += 1
        address = self._folder / f"{self._number}.sock"
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [python, "-m", WORKER, str(address)],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        threading.Thread(target=_note_ending, args=(process, address), daemon=True).start()
        return _Worker(process=process, address=address, python=python, environ=environ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker:
            self._worker.end()
        shutil.rmtree(self._folder, ignore_errors=True)


def _note_ending(process: subprocess.Popen[bytes], address: Path) -> None:
    """Tell the errand that waits how the worker ended."""
    code = process.wait()
    part = address.with_suffix(".part")
    with contextlib.suppress(OSError):  # the folder is gone: nobody waits
        part.write_text(str(code), encoding="ascii")
        part.replace(ending_file(address))
