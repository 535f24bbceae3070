"""The drafting process as its parent sees it: started, used, ended; its failures as errors."""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from tenner.core.command import CHILD_DEFAULTS
from tenner.core.errors import MachineError
from tenner.core.messages import msg
from tenner.core.secrets import child_environ
from tenner.dataset.workers import path_field


class CaptionProcess:
    """A model in a process of its own. Use as a context; raises MachineError where it ends."""

    def __init__(self, python: Path, order: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        root = str(Path(__file__).resolve().parents[3])
        search = [root, *filter(None, [environ.get("PYTHONPATH")])]
        self._stderr: IO[bytes] = TemporaryFile()  # noqa: SIM115  closed at the end of the context
        self._process = subprocess.Popen(
            [str(python), "-m", "tenner.dataset.captioning.worker", json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
            env={
                **CHILD_DEFAULTS,
                **child_environ(environ),
                "PYTHONPATH": os.pathsep.join(search),
                "HF_HUB_OFFLINE": "1",
                "TRANSFORMERS_OFFLINE": "1",
            },
        )

    def __enter__(self) -> "CaptionProcess":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def device(self) -> str:
        """Where the model runs, once it is loaded. Raises MachineError where it is not."""
        found = self._read()
        if "failed" in found:
            raise MachineError(
                msg("the model cannot be loaded: {found}", found=found["failed"]),
                fix=msg("check its files, or try --device cpu; pip install -U 'tenner[caption]'"),
            )
        return str(found["device"])

    def draft(self, image: Path) -> dict[str, Any]:
        """`caption`, or `unreadable` or `failed` with the reason."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"path": path_field(image)}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._ended()
        found: dict[str, Any] = json.loads(line)
        return found

    def _ended(self) -> MachineError:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        return MachineError(
            msg("the captioning process ended with {code}{last}", code=code, last=last),
            fix=msg(
                "it may have run out of memory: close other programs, or try --device cpu;"
                " the same command resumes where it ended"
            ),
        )
