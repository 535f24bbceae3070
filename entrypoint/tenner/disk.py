"""Whether a run's files fit the disk: reckoned before it starts, and watched while it trains."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenner.delivery import Destination
from tenner.errors import Problem
from tenner.events import Checkpoint, Event, StateSaved, Warned
from tenner.guards import Verdict
from tenner.machine import disk_room
from tenner.plan import Plan
from tenner.run_dir import RunDir
from tenner.training import states
from tenner.vram import STATE_BYTES, Load

STATES = 4
"""Two that are kept, one that is being written, one that is on its way to a destination."""
OTHER_BYTES = 200_000_000
"""Samples, page, logs, and the copy of the images."""
_BYTES = {"fp16": 2, "bf16": 2, "float": 4}


@dataclass(frozen=True, kw_only=True)
class DiskNeed:
    """What a run writes, in bytes. `copies` counts folders on the same disk that get a copy."""

    checkpoint: int
    state: int
    num_checkpoints: int
    copies: int = 0

    @property
    def total(self) -> int:
        weights = (self.num_checkpoints + 1) * self.checkpoint * (1 + self.copies)
        return weights + STATES * self.state + OTHER_BYTES


def disk_need(plan: Plan, *, copies: int = 0) -> DiskNeed:
    """Reckoned from the plan; the tiny base's files are too small to count."""
    options, length = plan.options, plan.length
    parameters = 0 if plan.base.is_tiny else _load(plan).lora_parameters
    moments = STATE_BYTES.get(str(options["optimizer_type"]).lower(), 8)
    epochs, steps = (options.get(f"save_every_n_{each}") for each in ("epochs", "steps"))
    every = int(str(steps)) if steps else int(str(epochs or 1)) * length.steps_per_epoch
    return DiskNeed(
        checkpoint=parameters * _BYTES[str(options.get("save_precision") or "fp16")],
        state=round(parameters * (4 + moments)),
        num_checkpoints=length.num_steps // every,
        copies=copies,
    )


def _load(plan: Plan) -> Load:
    options = plan.options
    return Load(
        family=plan.base.family,
        pixels=1,
        network_dim=int(str(options["network_dim"])),
        conv_dim=int(str(options.get("conv_dim") or 0)),
        unet_trained=not options.get("network_train_text_encoder_only"),
        text_encoder_trained=not options.get("network_train_unet_only"),
    )


def disk_problem(plan: Plan, place: RunDir, destinations: Sequence[Destination]) -> Problem | None:
    """The problem where this run will not fit. What it wrote already counts as there."""
    folders = [Path(each.root) for each in destinations if each.kind == "folder"]
    copies = sum(_same_disk(place.path, each) for each in folders)
    need = disk_need(plan, copies=copies)
    written = sum(file.stat().st_size for file in place.path.rglob("*") if file.is_file())
    room = disk_room(place.path)
    missing = need.total - written - (room.free_mib << 20)
    if missing <= 0:
        return None
    return Problem(
        text=f"this run writes about {need.total / 1e9:.1f} GB ({need.num_checkpoints} checkpoints"
        f" of {need.checkpoint / 1e6:.0f} MB, states of {need.state / 1e6:.0f} MB), and"
        f" {place.path.absolute()} has {room.free_mib / 953.7:.1f} GB free",
        fix="save less often, set output_dir to a larger disk, or rent a machine with more of it",
    )


@dataclass(kw_only=True)
class DiskGuard:
    """Drops the older states before the next save would fill the disk, and says so once."""

    place: RunDir
    free_bytes: Callable[[], int]
    now: Callable[[], float] = time.monotonic
    every_seconds: float = 5.0
    _largest: int = 0
    _looked_at: float = float("-inf")
    _has_warned: bool = False

    @staticmethod
    def of(place: RunDir) -> "DiskGuard":
        return DiskGuard(place=place, free_bytes=lambda: shutil.disk_usage(place.path).free)

    def heard(self, event: Event | None) -> Verdict | None:
        if isinstance(event, StateSaved | Checkpoint):
            path = Path(event.path)
            files = path.iterdir() if path.is_dir() else [path]
            size = sum(file.stat().st_size for file in files if file.is_file())
            self._largest = max(self._largest, size)
            self._looked_at = float("-inf")
        return None

    def look(self) -> Verdict | None:
        if self.now() - self._looked_at < self.every_seconds or not self._largest:
            return None
        self._looked_at = self.now()
        free = self.free_bytes()
        if free >= 2 * self._largest:
            return None
        dropped = states(self.place)[1:]
        for state in dropped:
            shutil.rmtree(state, ignore_errors=True)
        if self._has_warned:
            return None
        self._has_warned = True
        also = f"; {len(dropped)} older states are dropped" if dropped else ""
        return Verdict(
            event=Warned(
                text=f"the disk is nearly full: {free / 1e6:.0f} MB are free, and a save takes"
                f" {self._largest / 1e6:.0f} MB{also}",
                fix="free space there; what is saved is at the destinations",
            )
        )


def _same_disk(one: Path, other: Path) -> bool:
    place = other
    while not place.exists() and place != place.parent:
        place = place.parent
    return one.stat().st_dev == place.stat().st_dev
