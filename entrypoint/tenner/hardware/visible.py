"""Which of the cards a run may use: CUDA_VISIBLE_DEVICES, then the best of what is left.

CUDA counts cards from the fastest unless set otherwise, nvidia-smi by PCI bus. Everything here
counts as nvidia-smi does, and children get `CUDA_DEVICE_ORDER=PCI_BUS_ID` so that they do too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.hardware.cards import card_named
from tenner.hardware.gpu import Gpu

LIKE_MEMORY = 0.9
"""Cards with this share of the most free memory are taken to have as much: a desktop takes 5 %."""


@dataclass(frozen=True, kw_only=True)
class Visible:
    """Cards that the environment lets a process see, in CUDA's order."""

    gpus: tuple[Gpu, ...] = ()
    problem: Problem | None = None
    by_user: bool = False
    """The environment names them, so their order is somebody's wish."""


def select_visible(gpus: Sequence[Gpu], env: Mapping[str, str]) -> Visible:
    """Apply `CUDA_VISIBLE_DEVICES` as CUDA does: the list ends at the first entry it cannot find.

    A name that is not there is an error here, since CUDA would continue without a message.
    """
    wish = env.get("CUDA_VISIBLE_DEVICES")
    if wish is None:
        return Visible(gpus=tuple(gpus))
    entries = [entry.strip() for entry in wish.split(",")]
    if entries[0] in ("", "-1", "NoDevFiles"):
        return Visible(problem=_hidden(wish, gpus), by_user=True)
    found: list[Gpu] = []
    for entry in entries:
        gpu = _find(entry, gpus)
        if gpu is None:
            return Visible(problem=_absent(entry, wish, gpus), by_user=True)
        if gpu in found:
            return Visible(
                problem=Problem(
                    text=msg(
                        "CUDA_VISIBLE_DEVICES={wish} names {label} twice",
                        wish=wish,
                        label=gpu.label,
                    ),
                    fix=msg("name each card once"),
                ),
                by_user=True,
            )
        found.append(gpu)
    return Visible(gpus=tuple(found), by_user=True)


def _find(entry: str, gpus: Sequence[Gpu]) -> Gpu | None:
    """A card by number, by UUID or the start of one. The number of a divided card is its first
    slice."""
    if entry.isascii() and entry.isdigit():
        return next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    if not entry.startswith(("GPU-", "MIG-")) or len(entry) < 5:
        return None
    matches = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
    if len(matches) == 1:
        return matches[0]
    slices = [gpu for gpu in gpus if gpu.is_slice]
    nameless = entry.startswith("MIG-") and not any(gpu.uuid for gpu in slices)
    return slices[0] if nameless and len(slices) == 1 else None


def _hidden(wish: str, gpus: Sequence[Gpu]) -> Problem:
    return Problem(
        text=msg(
            'CUDA_VISIBLE_DEVICES="{wish}" hides every GPU; there would be {listed}',
            wish=wish,
            listed=_listed(gpus),
        ),
        fix=msg("unset CUDA_VISIBLE_DEVICES, or add --device cpu to use the CPU"),
    )


def _absent(entry: str, wish: str, gpus: Sequence[Gpu]) -> Problem:
    return Problem(
        text=msg(
            "CUDA_VISIBLE_DEVICES={wish} names {entry}, which is not here; there is {listed}",
            wish=wish,
            entry=entry,
            listed=_listed(gpus),
        ),
        fix=msg("name one of these by its number or UUID, or unset CUDA_VISIBLE_DEVICES"),
    )


def _listed(gpus: Sequence[Gpu]) -> str:
    return ", ".join(gpu.label for gpu in gpus)


def choose_gpus(
    visible: Visible, num_gpus: int, *, is_usable: Callable[[Gpu], bool]
) -> tuple[Gpu, ...]:
    """The cards to train on: the first ones where the user gave an order, else the fastest of
    those with about the most free memory that the trainer has kernels for. May be fewer than
    `num_gpus`.

    A process sees only one slice of a divided card, so slices are never taken together.
    """
    usable = [gpu for gpu in visible.gpus if is_usable(gpu)] or list(visible.gpus)
    if not visible.by_user:
        most = max((_memory(gpu) for gpu in usable), default=0)
        usable.sort(key=lambda gpu: _worth(gpu, most), reverse=True)
    chosen = usable[: max(num_gpus, 1)]
    return tuple(chosen[:1] if any(gpu.is_slice for gpu in chosen) else chosen)


def _worth(gpu: Gpu, most_mib: int) -> tuple[bool, float, tuple[int, int], int, int]:
    """Among cards with about the most memory the faster one is worth more."""
    card = card_named(gpu.name)
    enough = _memory(gpu) >= LIKE_MEMORY * most_mib
    speed = (card.peak_tflops or 0.0) if card and enough else 0.0
    return (enough, speed, gpu.capability or (0, 0), _memory(gpu), -gpu.index)


def _memory(gpu: Gpu) -> int:
    return gpu.free_mib or gpu.total_mib or 0


def child_environment(chosen: Sequence[Gpu]) -> dict[str, str]:
    """What a child needs so that it sees the chosen cards and only these."""
    names = [gpu.uuid if gpu.is_slice and gpu.uuid else str(gpu.index) for gpu in chosen]
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(names)}
