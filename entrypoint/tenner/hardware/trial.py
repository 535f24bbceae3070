"""Tests whether the trainer's Python can compute on the card.

nvidia-smi may list a card with a suitable driver, and still a trainer fails at its first tensor:
torch without CUDA, a library built for another torch, a lost card. A child process of the trainer's
Python tests a small product and the libraries of the run. It runs while the dataset is read.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Self

from tenner.core.command import NO_COMPILE_WORKERS
from tenner.core.errors import Problem
from tenner.core.messages import Message, msg

TIME_LIMIT_SECONDS = 180.0
"""On a cold network disk importing torch alone takes a minute."""
TORCH = "torch"
LIBRARIES = ("xformers", "bitsandbytes")


@dataclass(frozen=True, kw_only=True)
class Tried:
    """The result of a trial. `broken` has the error of each library that does not work."""

    broken: Mapping[str, str] = field(default_factory=dict[str, str])
    torch: str = ""
    cuda: str = ""
    architectures: tuple[str, ...] = ()
    gpu: str = ""

    @property
    def problem(self) -> Problem | None:
        """The error that prevents training on this card; a broken library is only replaced by
        another one."""
        torch_error = self.broken.get(TORCH)
        if torch_error is None:
            return None
        return Problem(
            text=msg(
                "the trainer's torch cannot compute on the card: {torch_error}",
                torch_error=torch_error,
            ),
            fix=_fix(torch_error),
        )


class Trial:
    """A running trial. A context that ends its process."""

    def __init__(
        self, python: Path, libraries: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> None:
        self._python = python
        self._environ = {**NO_COMPILE_WORKERS, **environ} if environ else {}
        self._names: list[str] = [TORCH, *libraries]
        self._process: subprocess.Popen[str] | str = self._start(self._names)

    def finish(self, time_limit_seconds: float = TIME_LIMIT_SECONDS) -> Tried:
        """Wait for the result. A library that crashes the process is broken; the remaining ones are
        tried again without it. Never raises."""
        lines: list[dict[str, Any]] = []
        broken: dict[str, str] = {}
        names: list[str] = self._names
        while names:
            if isinstance(self._process, str):
                broken |= dict.fromkeys(names, self._process)
                break
            found, ended = self._wait(self._process, time_limit_seconds)
            lines += found
            done = {str(each.get("works") or each.get("failed") or "") for each in found}
            rest: list[str] = [name for name in names if name not in done]
            if not rest:
                break
            broken[rest[0]] = ended
            names = [] if rest[0] == TORCH else rest[1:]
            if names:
                self._process = self._start(names)
        return _tried(lines, broken)

    def _start(self, names: Sequence[str]) -> "subprocess.Popen[str] | str":
        code = (resources.files("tenner.hardware") / "trial_child.py").read_text(encoding="utf-8")
        try:
            return subprocess.Popen(
                [self._python, "-c", code, *names],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=self._environ or None,
                start_new_session=True,
            )
        except OSError as error:
            return msg(
                "{python} does not start: {strerror}",
                python=self._python,
                strerror=error.strerror or error,
            )

    @staticmethod
    def _wait(
        process: "subprocess.Popen[str]", time_limit_seconds: float
    ) -> tuple[list[dict[str, Any]], str]:
        """Its output, and a description of its end."""
        try:
            out, err = process.communicate(timeout=time_limit_seconds)
            last = next((line for line in reversed(err.splitlines()) if line.strip()), "no output")
            ended = msg("its process died of signal {returncode}", returncode=-process.returncode)
            if process.returncode >= 0:
                ended = last.strip()[:300]
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            ended = msg(
                "no answer within {time_limit_seconds} s",
                time_limit_seconds=f"{time_limit_seconds:.0f}",
            )
        return _json_lines(out), ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if isinstance(process, str):
            return
        if process.poll() is None:
            process.kill()
        process.communicate()


def _json_lines(text: str) -> list[dict[str, Any]]:
    """The JSON objects among the lines; libraries print others."""
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def _tried(lines: Sequence[Mapping[str, Any]], broken: Mapping[str, str]) -> Tried:
    answer: dict[str, Any] = {}
    failed: dict[str, str] = dict(broken)
    for line in lines:
        if "failed" in line:
            failed[str(line["failed"])] = str(line.get("error", ""))
        answer |= line
    return Tried(
        broken=failed,
        torch=str(answer.get("torch") or ""),
        cuda=str(answer.get("cuda") or ""),
        architectures=tuple(answer.get("architectures") or ()),
        gpu=str(answer.get("gpu") or ""),
    )


def _fix(error: str) -> Message:
    if "without CUDA" in error:
        return msg("install the CUDA build of torch, or use the image")
    if "No module named" in error:
        return msg("pip install 'tenner[train]', or name another Python in TENNER_TRAINER_PYTHON")
    if "kernel image" in error:
        return msg(
            "use the image whose CUDA fits this card (cu128 for RTX 50), or rent another card"
        )
    if "driver" in error.lower():
        return msg("rent a machine with a newer driver, or update the host's")
    return msg("restart the container; if it happens again, rent another machine")


def trainer_python(environ: Mapping[str, str]) -> Path:
    """The Python that trains: TENNER_TRAINER_PYTHON, else this one."""
    return Path(environ.get("TENNER_TRAINER_PYTHON") or sys.executable)
