"""The values that are sent to a node, and those that come back: both ends may be different
machines."""

import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tenner.core.secrets import secrets_from, without_secrets
from tenner.queue.record import JobState
from tenner.settings import Request

LOST = 75
"""Exit code of a job whose lease was lost: another machine has it, or may have."""
_TRAVELS = ("AWS_", "HF_", "HUGGING_FACE_", "TENNER_WEBHOOK")
"""Variables that a job gets on its node from the machine that submits it: those of destinations. A
node's own keys (RunPod's, Vast's) are not replaced."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A job to do. `environ` holds the user's keys and is never shown, written or logged."""

    request: Request
    lease_seconds: float
    environ: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a job ended. Seconds and dollars are those of all attempts of the run."""

    state: JobState
    exit_code: int
    node: str = ""
    generation: int = 0
    problems: tuple[str, ...] = ()
    seconds: float = 0.0
    cost_usd: float | None = None
    steps: int = 0
    loss: float | None = None
    destinations: tuple[str, ...] = ()


def travelling(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that go with a job: keys, read from their files here, and addresses."""
    secrets, _ = secrets_from(environ)
    found = {**without_secrets(environ), **secrets.values}
    return {name: value for name, value in found.items() if name.startswith(_TRAVELS)}


def descendants(pid: int) -> list[int]:
    """All descendants of the process `pid`, the nearest first."""
    found: list[int] = []
    for task in _listed(Path(f"/proc/{pid}/task")):
        with suppress(OSError):
            children = (task / "children").read_text(encoding="ascii").split()
            for child in map(int, children):
                found += [child, *descendants(child)]
    return found


def _listed(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def kill_all_below(pid: int) -> None:
    """Kill every descendant of `pid` at once; those that are started meanwhile too."""
    while below := descendants(pid):
        alive = 0
        for each in below:
            with suppress(OSError):
                os.kill(each, signal.SIGKILL)
                alive += not _is_zombie(each)
        if not alive:
            return


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"
