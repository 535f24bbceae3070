"""Whether a run's files fit the disk: calculated before it starts, and watched while it trains."""

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenner.core.disk_errors import disk_failure
from tenner.core.errors import Problem
from tenner.core.events import Checkpoint, Event, Failed, StateSaved, Warned
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.core.sizes import size_words
from tenner.core.weights import ema_path
from tenner.hardware import DiskSpace, disk_space
from tenner.kohya.networks import is_ia3
from tenner.optimizers import state_bytes
from tenner.planning.plan import Plan
from tenner.planning.vram import Load
from tenner.runs.reserve import NOTES_BYTES, release_reserve
from tenner.storage.destination import Destination
from tenner.storage.sending import OWN_FOLDER
from tenner.supervision.guards import Verdict
from tenner.supervision.states import states

STATES = 5
"""Two that are stored, one that is being written, one that is being sent to a destination, and the
reserved space for one more."""
OTHER_BYTES = 200_000_000
"""Samples, page, logs, and the copy of the images."""
OTHER_DELIVERED_BYTES = 50_000_000
"""Samples and page, at a destination."""
_BYTES = {"fp16": 2, "bf16": 2, "float": 4}


@dataclass(frozen=True, kw_only=True)
class DiskNeed:
    """The bytes that a run writes. `num_remote_states` stay at each destination; a new one is sent
    before an older one is removed."""

    checkpoint: int
    state: int
    num_checkpoints: int
    num_remote_states: int = 0

    @property
    def here(self) -> int:
        """In the run's directory."""
        return self._weights + STATES * self.state + OTHER_BYTES

    @property
    def reserved(self) -> int:
        """Reserved for a last save and its delivery."""
        return NOTES_BYTES + self.state + self.checkpoint

    @property
    def delivered(self) -> int:
        """At a destination."""
        states = self.num_remote_states + 1 if self.num_remote_states else 0
        return self._weights + states * self.state + OTHER_DELIVERED_BYTES

    @property
    def _weights(self) -> int:
        return (self.num_checkpoints + 1) * self.checkpoint

    def __str__(self) -> str:
        if not self.checkpoint:
            return msg(
                "{num_checkpoints} small checkpoints, pictures and logs",
                num_checkpoints=self.num_checkpoints,
            )
        return msg(
            "{num_checkpoints} checkpoints of {size}, states of {size2}",
            num_checkpoints=self.num_checkpoints,
            size=size_words(self.checkpoint),
            size2=size_words(self.state),
        )


def disk_need(plan: Plan, *, num_remote_states: int = 0) -> DiskNeed:
    """The need by the plan; 0 for the files of the tiny base."""
    options, length = plan.options, plan.length
    parameters = 0 if plan.base.is_tiny else _load(plan).lora_parameters
    moments = state_bytes(options.optimizer_type)
    by_epochs = (options.save_every_n_epochs or 1) * length.steps_per_epoch
    every = options.save_every_n_steps or by_epochs
    with_average = 1 if options.ema_decay is None else 2
    return DiskNeed(
        checkpoint=with_average * parameters * _BYTES[options.save_precision],
        state=round(parameters * (4 * with_average + moments)),
        num_checkpoints=length.num_steps // every,
        num_remote_states=num_remote_states,
    )


def _load(plan: Plan) -> Load:
    options = plan.options
    return Load(
        family=plan.base.family,
        pixels=1,
        network_dim=options.network_dim,
        conv_dim=options.conv_dim or 0,
        is_ia3=is_ia3(options.network_module, options.network_args),
        unet_trained=not options.network_train_text_encoder_only,
        text_encoder_trained=not options.network_train_unet_only,
    )


def disk_problem(
    plan: Plan, run_dir: RunDir, destinations: Sequence[Destination], *, num_remote_states: int = 0
) -> Problem | None:
    """The problem where the run and the destinations on its disk do not fit that disk.

    Files that it has written already are not counted again.
    """
    need = disk_need(plan, num_remote_states=num_remote_states)
    folders = [Path(each.root) for each in destinations if each.kind == "folder"]
    here = [each for each in folders if _disk_of(each) == _disk_of(run_dir.path)]
    beside = [each for each in here if not each.is_relative_to(run_dir.path.absolute())]
    inside = len(here) - len(beside)  # those get no states
    total = need.here + len(beside) * need.delivered
    total += inside * disk_need(plan).delivered
    written = _num_bytes(run_dir.path.rglob("*"))
    written += sum(_delivered_bytes(each, plan.output_name) for each in beside)
    space = disk_space(run_dir.path)
    if total - written <= space.free_mib << 20:
        return None
    return Problem(
        text=msg(
            "this run writes about {size} ({need}), and {path} has {size2} free",
            size=size_words(total),
            need=need,
            path=run_dir.path.absolute(),
            size2=size_words(space.free_mib << 20),
        ),
        fix=msg(
            "save less often, set output_dir to a larger disk, or rent a machine with more of it"
        ),
    )


def full_destinations(
    plan: Plan,
    run_dir: RunDir,
    destinations: Sequence[Destination],
    *,
    num_remote_states: int,
    space_of: Callable[[Path], DiskSpace] = disk_space,
) -> tuple[Problem, ...]:
    """Problems of folders on other disks that do not have the space for the delivery.

    Free space is the file system's figure for this user: it includes the quota of a project or a
    directory (XFS, ZFS, CephFS, NFS), but not that of a user. Files that are there already are not
    counted again; folders on one disk are added up. An optional destination's is a warning.
    """
    need = disk_need(plan, num_remote_states=num_remote_states)
    by_disk: dict[int, list[Destination]] = {}
    for each in destinations:
        if each.kind == "folder" and _disk_of(Path(each.root)) != _disk_of(run_dir.path):
            by_disk.setdefault(_disk_of(Path(each.root)), []).append(each)
    problems: list[Problem] = []
    for there in by_disk.values():
        written = sum(_delivered_bytes(Path(each.root), plan.output_name) for each in there)
        free = space_of(Path(there[0].root)).free_mib << 20
        total = len(there) * need.delivered
        if total - written > free:
            problems += [_full(each, need, total, free) for each in there]
    return tuple(problems)


def _full(destination: Destination, need: DiskNeed, total: int, free: int) -> Problem:
    return Problem(
        text=msg(
            "{destination} has {size} free, and this run writes about {size2} there ({need})",
            destination=destination,
            size=size_words(free),
            size2=size_words(total),
            need=need,
        ),
        fix=msg(
            "free space there, name another folder, save less often, or set keep_remote_states = 0"
        ),
        level="error" if destination.required else "warning",
    )


def _delivered_bytes(root: Path, name: str) -> int:
    """The bytes that earlier attempts of the run `name` have written to a folder."""
    final = root / f"{name}.safetensors"
    found = [final, ema_path(final), *root.glob(f"checkpoints/{name}-*.safetensors")]
    return _num_bytes([*found, *(root / OWN_FOLDER / name).rglob("*")])


def _num_bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


@dataclass(kw_only=True)
class DiskGuard:
    """Removes older states before the next save would fill the disk, and warns once.

    Where nothing more can be written (`trouble` is a writer's error), it releases the reserved
    space and ends the engine with a save, so that its files can be delivered.
    """

    run_dir: RunDir
    free_bytes: Callable[[], int]
    trouble: Callable[[], OSError | None] = lambda: None
    now: Callable[[], float] = time.monotonic
    every_seconds: float = 5.0
    _largest: int = 0
    _checked_at: float = float("-inf")
    _has_warned: bool = False
    _has_ended: bool = False

    @staticmethod
    def of(run_dir: RunDir, trouble: Callable[[], OSError | None]) -> "DiskGuard":
        return DiskGuard(
            run_dir=run_dir,
            free_bytes=lambda: shutil.disk_usage(run_dir.path).free,
            trouble=trouble,
        )

    def handle(self, event: Event | None) -> Verdict | None:
        if isinstance(event, StateSaved | Checkpoint):
            path = Path(event.path)
            files = list(path.iterdir()) if path.is_dir() else [path]
            if isinstance(event, Checkpoint) and event.ema:
                files.append(Path(event.ema))
            size = sum(file.stat().st_size for file in files if file.is_file())
            self._largest = max(self._largest, size)
            self._checked_at = float("-inf")
        return None

    def check(self) -> Verdict | None:
        error = self.trouble()
        if error is not None and not self._has_ended:
            self._has_ended = True
            found = disk_failure(error, self.run_dir.path)
            release_reserve(self.run_dir)
            failed = Failed(kind="disk", text=found.text, fix=found.fix)
            return Verdict(event=failed, end="save", reason="disk")
        if self.now() - self._checked_at < self.every_seconds or not self._largest:
            return None
        self._checked_at = self.now()
        free = self.free_bytes()
        if free >= 2 * self._largest:
            return None
        dropped = states(self.run_dir)[1:]
        for state in dropped:
            shutil.rmtree(state, ignore_errors=True)
        if self._has_warned:
            return None
        self._has_warned = True
        also = msg("; {n} older states are removed", n=len(dropped)) if dropped else ""
        return Verdict(
            event=Warned(
                text=msg(
                    "the disk is nearly full: {size} are free, and a save takes {size2}{also}",
                    size=size_words(free),
                    size2=size_words(self._largest),
                    also=also,
                ),
                fix=msg("free space there; what is saved is at the destinations"),
            )
        )


def _disk_of(path: Path) -> int:
    """The device of the file system of a folder, which need not exist yet."""
    folder = path.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.stat().st_dev
