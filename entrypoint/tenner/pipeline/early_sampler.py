"""Samples of chosen epochs while the training runs, as the guide does at epoch 6.

Each checkpoint is drawn by a sampling process of its own beside the trainer: on the card where its
free memory suffices, on idle cores where the base is small enough, else after the training. The
trainer never waits for it.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

from tenner.core.events import Checkpoint, Event, Warned
from tenner.core.family import Family
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.families import FAMILIES
from tenner.pipeline.sampling import lay_out
from tenner.planning.plan import Plan
from tenner.report.facts import SampleSet
from tenner.sample.cells import USUAL, Prompt, strength_cells
from tenner.sample.job import SAMPLES_FILE, Cell, Drawn, Samples
from tenner.settings.model import Settings
from tenner.supervision.guards import Guard, Verdict

Where = Literal["cuda", "cpu", "after"]

CONTEXT_MIB = 600
"""What a CUDA context takes, as in the memory model."""
PARAMETERS = {"sd1": 1_066_000_000, "sd2": 1_290_000_000, "sdxl": 3_470_000_000}
"""U-Net, text encoders and VAE; two bytes each in half precision."""
_MAPS = 8
"""Feature maps of 256 channels at full size that the VAE's decoder may hold at a time, twice what
its largest block has alive (input, output, shortcut and the convolution's own)."""
QUIET_CORES = 4
"""A CPU with fewer has none to spare beside a trainer."""
CPU_MIB_PER_PARAMETER = 4 / 2**20
_CPU_SEEDS = 2


@dataclass(frozen=True, kw_only=True)
class FreeMemory:
    """What the machine has left beside the trainer, in MiB; None where it is not known."""

    card_mib: int | None
    memory_mib: int | None
    cpus: int


def card_needs_mib(family: Family, width: int, height: int) -> float:
    """An upper estimate of what drawing one picture takes on a card in half precision."""
    maps = _MAPS * 256 * width * height * 2
    return CONTEXT_MIB + (2 * _parameters(family) + maps) / 2**20


def _parameters(family: Family) -> float:
    """Numbers in all parts that drawing needs."""
    size = FAMILIES[family].transformer
    return size.parameters + size.text_gb * 1e9 / 2 if size else PARAMETERS[family]


def where_to_draw(plan: Plan, free: FreeMemory) -> Where:
    """Beside the trainer on the card, on the CPU, or when the training has ended.

    A CPU draws a picture of SD 1.5 in a minute or two; SDXL is ten times the work, so it waits.
    """
    base = plan.base
    if plan.device == "cpu":
        return "cpu"
    if free.card_mib is not None and free.card_mib >= card_needs_mib(base.family, *plan.resolution):
        return "cuda"
    enough = (free.memory_mib or 0) >= 2 * _parameters(base.family) * CPU_MIB_PER_PARAMETER
    return (
        "cpu" if base.family in ("sd1", "sd2") and free.cpus >= QUIET_CORES and enough else "after"
    )


def early_cells(prompts: Sequence[Prompt], settings: Settings, where: Where) -> tuple[Cell, ...]:
    """The grid of an early look: strengths and seeds alone, and on a CPU only the usual strength
    beside the base."""
    seeds = settings.sample_seeds
    if where == "cpu":
        return tuple(strength_cells(prompts[0], (USUAL,), seeds[:_CPU_SEEDS]))
    return tuple(
        cell
        for prompt in prompts
        for cell in strength_cells(prompt, settings.sample_strengths, seeds)
    )


@dataclass(frozen=True, kw_only=True)
class EarlySample:
    """An epoch that was drawn: its pictures for the page, and the sheet of them."""

    epoch: int
    step: int
    samples: SampleSet
    grid: Path


class DrawCheckpoint(Protocol):
    """Draws samples of a checkpoint into a folder; emits a warning and returns None on failure."""

    def __call__(
        self, weights: Path, where: Where, folder: Path, *, guards: Sequence[Guard]
    ) -> Drawn | None: ...


@dataclass(kw_only=True)
class EarlySampler:
    """Draws samples of the epochs in `sample_at_epochs` while it is entered as a context.

    `handle` takes the run's events and returns at once; `finish` draws what could not be drawn
    beside the trainer. `on_sample` is called from the drawing thread. Leaving the context
    without `finish` ends a sampler that still runs.
    """

    settings: Settings
    plan: Plan
    run_dir: RunDir
    free_memory: Callable[[], FreeMemory]
    draw: DrawCheckpoint
    emit: Callable[[Event], None]
    on_sample: Callable[[EarlySample], None]
    _due: queue.SimpleQueue[int | None] = field(default_factory=queue.SimpleQueue[int | None])

    def __post_init__(self) -> None:
        self._leaving = Leaving()
        self._thread = threading.Thread(target=self._work, name="early-sampler", daemon=True)

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epochs to draw, without the last one, which the final grid shows."""
        epochs_set = sorted(set(self.settings.sample_at_epochs))
        return tuple(each for each in epochs_set if each < self.plan.length.num_epochs)

    def handle(self, event: Event) -> None:
        """Queue the checkpoint of a requested epoch."""
        if not isinstance(event, Checkpoint) or event.final or event.epoch not in self.epochs:
            return
        if Path(event.path).name == self._weights(event.epoch).name:
            self._due.put(event.epoch)

    def finish(self) -> None:
        """The training has ended: draw what is left, on the device that is free now."""
        self._due.put(None)
        self._thread.join()
        for epoch in self.epochs:
            if not self._folder(epoch).joinpath(SAMPLES_FILE).is_file():
                self._draw_epoch(epoch, "cuda" if self.plan.device == "cuda" else "cpu")

    def _work(self) -> None:
        for epoch in self.epochs:  # drawn by an earlier attempt of the run
            self._show(epoch)
        while (epoch := self._due.get()) is not None and not self._leaving.left:
            where = where_to_draw(self.plan, self.free_memory())
            if where != "after":
                self._draw_epoch(epoch, where)

    def _draw_epoch(self, epoch: int, where: Where) -> None:
        weights, folder = self._weights(epoch), self._folder(epoch)
        if not weights.is_file():
            return
        drawn = self.draw(weights, where, folder, guards=(self._leaving,))
        if drawn is not None:
            self._show(epoch)

    def _show(self, epoch: int) -> None:
        """Lay out what was drawn of an epoch, and pass it on."""
        listing = self._folder(epoch) / SAMPLES_FILE
        if not listing.is_file():
            return
        step = epoch * self.plan.length.steps_per_epoch
        grid = self.run_dir.samples / f"epoch-{epoch:06d}.png"
        try:
            lay_out(Drawn(listing=listing), grid, title=f"{self.plan.output_name}, epoch {epoch}")
            samples = SampleSet.of(
                Samples.read(listing), listing.parent, epoch=epoch, step=step, final=False
            )
        except (OSError, ValueError) as error:
            self.emit(
                Warned(
                    text=msg(
                        "the samples of epoch {epoch} cannot be shown: {error}",
                        epoch=epoch,
                        error=error,
                    )
                )
            )
            return
        self.on_sample(EarlySample(epoch=epoch, step=step, samples=samples, grid=grid))

    def _weights(self, epoch: int) -> Path:
        return self.run_dir.checkpoints / f"{self.plan.output_name}-{epoch:06d}.safetensors"

    def _folder(self, epoch: int) -> Path:
        return self.run_dir.samples / f"epoch-{epoch:06d}"

    def __enter__(self) -> Self:
        beyond = [each for each in self.settings.sample_at_epochs if each not in self.epochs]
        beyond = [each for each in beyond if each != self.plan.length.num_epochs]
        if beyond:
            named = ", ".join(map(str, beyond))
            text = msg(
                "sample_at_epochs = {named}: the run has {num_epochs} epochs",
                named=named,
                num_epochs=self.plan.length.num_epochs,
            )
            self.emit(Warned(text=text))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.left = True
        self._due.put(None)
        self._thread.join()


@dataclass(kw_only=True)
class Leaving:
    """A guard that ends a sampler when the run is over for another reason."""

    left: bool = False

    def handle(self, event: Event | None) -> Verdict | None:
        return None

    def check(self) -> Verdict | None:
        return Verdict(end="now", reason="left") if self.left else None
