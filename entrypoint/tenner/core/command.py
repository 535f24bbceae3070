"""A program to start, and how a line of its output is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tenner.core.events import Event


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program to start. `env` is what is added to the (cleaned) environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: Path | None = None


ReadLine = Callable[[str], Event | None]
"""The event in one line of an engine's output; None where it is only a line of the log."""


THREAD_WAITING: Mapping[str, str] = {"GOMP_SPINCOUNT": "2000"}
"""How long PyTorch's threads on a CPU spin for each other before they sleep, unless the user sets
otherwise. As fast as the default on an idle machine, several times as fast on one that does other
work (`bench/thread_waiting.py`)."""
NO_COMPILE_WORKERS: Mapping[str, str] = {"TORCH_WARM_POOL": "0"}
"""torch starts no processes that compile (one for each core, 90 to 190 MB each) before something is
compiled. Without this, importing its compiler (as xformers and diffusers do) starts them; with
torch_compile they start at the first step."""
CHILD_DEFAULTS: Mapping[str, str] = {**THREAD_WAITING, **NO_COMPILE_WORKERS}
"""Environment of processes with torch, unless the user sets it."""
