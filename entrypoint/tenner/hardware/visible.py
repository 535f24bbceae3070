"""The cards that a run uses: those of CUDA_VISIBLE_DEVICES, and of them the best.

CUDA counts cards from the fastest unless set otherwise, nvidia-smi by PCI bus. Here cards are
numbered as by nvidia-smi, and child processes get `CUDA_DEVICE_ORDER=PCI_BUS_ID` to do the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.hardware.cards import card_named
from tenner.hardware.gpu import Gpu

LIKE_MEMORY = 0.9
"""Cards with this share of the largest free memory count as equal: a desktop takes 5 %."""


@dataclass(frozen=True, kw_only=True)
class Visible:
    """Cards that the environment lets a process see, in CUDA's order."""

    gpus: tuple[Gpu, ...] = ()
    problem: Problem | None = None
    by_user: bool = False
    """Whether the environment names them: then their order is the user's."""


def select_visible(gpus: Sequence[Gpu], env: Mapping[str, str]) -> Visible:
    """Apply `CUDA_VISIBLE_DEVICES` as CUDA does: the list ends at the first entry it cannot find.

    A name that does not exist is an error here, while CUDA ignores it without a message.
    """
    value = env.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return Visible(gpus=tuple(gpus))
    entries = [entry.strip() for entry in value.split(",")]
    if entries[0] in ("", "-1", "NoDevFiles"):
        return Visible(problem=_hidden(value, gpus), by_user=True)
    found: list[Gpu] = []
    for entry in entries:
        gpu = _find(entry, gpus)
        if gpu is None:
            return Visible(problem=_absent(entry, value, gpus), by_user=True)
        if gpu in found:
            return Visible(
                problem=Problem(
                    text=msg(
                        "CUDA_VISIBLE_DEVICES={value} names {label} twice",
                        value=value,
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


def _hidden(value: str, gpus: Sequence[Gpu]) -> Problem:
    return Problem(
        text=msg(
            'CUDA_VISIBLE_DEVICES="{value}" hides every GPU of {listed}',
            value=value,
            listed=_listed(gpus),
        ),
        fix=msg("unset CUDA_VISIBLE_DEVICES, or add --device cpu to use the CPU"),
    )


def _absent(entry: str, value: str, gpus: Sequence[Gpu]) -> Problem:
    return Problem(
        text=msg(
            "CUDA_VISIBLE_DEVICES={value} names {entry}, which does not exist; there is {listed}",
            value=value,
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
    """Sort key: enough memory first, then speed, capability, memory, and the lower number."""
    card = card_named(gpu.name)
    enough = _memory(gpu) >= LIKE_MEMORY * most_mib
    speed = (card.peak_tflops or 0.0) if card and enough else 0.0
    return (enough, speed, gpu.capability or (0, 0), _memory(gpu), -gpu.index)


def _memory(gpu: Gpu) -> int:
    return gpu.free_mib or gpu.total_mib or 0


def child_environment(chosen: Sequence[Gpu]) -> dict[str, str]:
    """Variables with which a child process sees only the chosen cards."""
    names = [gpu.uuid if gpu.is_slice and gpu.uuid else str(gpu.index) for gpu in chosen]
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(names)}
