"""What runs share that are run one after another in one process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tenner.core.command import Command
from tenner.hardware.prices import Price
from tenner.planning.prepared import Prepared
from tenner.settings import Request

Launch = Callable[[Command, Mapping[str, str]], Command]
"""How a process of the built-in trainer or the sampler is started, given its environment."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Called while a run is prepared: with the name and detail of each stage, the number of images
    decoded and their total, the bytes fetched and their total (None where it is not known)."""

    on_stage: Callable[[str, str], None] = lambda name, detail: None
    on_image: Callable[[int, int], None] = lambda done, total: None
    on_bytes: Callable[[int, int | None], None] | None = None


NO_PROGRESS = Progress()


class Prepare(Protocol):
    """As `tenner.pipeline.preflight.prepare`."""

    def __call__(
        self,
        request: Request,
        environ: Mapping[str, str],
        workdir: Path,
        *,
        progress: Progress = NO_PROGRESS,
        host_price: Price | None = None,
    ) -> Prepared: ...


def start_separately(command: Command, environ: Mapping[str, str]) -> Command:
    """Start each command as its own process, as a single run does."""
    del environ
    return command


def no_fence() -> None:
    """The fence of a single run: no other machine can have taken it over."""


def nothing_on_card() -> None:
    """For a single run: no earlier one has left anything on the card."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """How a run is prepared and its processes are started; where encoded images are cached.

    `ends_machine` is False where others follow on the same machine. `fence` raises where another
    machine has taken this run over; it is called before the whole set is delivered. `empty_card`
    frees what earlier runs left on the card, so that its memory can be measured; `corrections` are
    the results of such measurements, by what was measured.
    """

    prepare: Prepare
    launch: Launch = start_separately
    latents: Path | None = None
    ends_machine: bool = True
    fence: Callable[[], None] = no_fence
    empty_card: Callable[[], None] = nothing_on_card
    corrections: dict[str, float] | None = None
