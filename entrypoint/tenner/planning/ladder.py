"""Which setting of a transformer's levers a card is given where the plan chooses the batch. Pure.

All settings are put in the order of the memory that they take, and a card has the last that fits of
those which are an improvement on the one before. So a card with more memory never trains slower,
with fewer images to a step, or with a base in 8 bits where a smaller card has it in 16. A larger
batch is another training, and swapping and recomputing more for it rests on times that were not
measured: it is taken where it gains more than the time model may be off (`sizing.MIN_GAIN`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tenner.planning.batch_choice import CardMemory, Wish
from tenner.planning.sizing import AUTO_LIMIT, MIN_GAIN, seconds_per_image
from tenner.planning.vram import Load, needed_gb

FP8_SLOWDOWN = 1.02
"""8-bit weights are widened before each product: 7.99 s against 7.83 s a step of FLUX.1 on an RTX
A6000 (sd-scripts pull request 1374)."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A setting of all levers, with its memory in GB and its time for an image. Batches are
    accumulated to `images` a step."""

    load: Load
    batch_size: int
    images: int
    gradient_checkpointing: bool
    needed_gb: float
    seconds: float

    @property
    def accumulation(self) -> int:
        return self.images // self.batch_size


def is_climbed(wish: Wish) -> bool:
    """Whether batch and accumulation are left to the plan."""
    is_open = wish.batch_size == "auto" and wish.effective_batch_size is None
    return is_open and wish.accumulation == 1


def highest_rung(variants: Iterable[Load], card: CardMemory, wish: Wish) -> Rung | None:
    """The last improvement that fits the card; None where no setting fits."""
    settings = sorted(
        _settings(variants, card, wish), key=lambda each: (each.needed_gb, each.seconds)
    )
    found: Rung | None = None
    for each in settings:
        if each.needed_gb > card.usable_gb:
            break
        found = each if found is None else _better(each, found)
    return found


def _settings(variants: Iterable[Load], card: CardMemory, wish: Wish) -> Iterator[Rung]:
    requested = wish.gradient_checkpointing
    switches = (False, True) if requested is None else (requested,)
    for load in variants:
        for size in range(1, max(1, min(AUTO_LIMIT, wish.most_images)) + 1):
            for checkpointing in switches:
                seconds = seconds_per_image(load, card, size, checkpointing)
                yield Rung(
                    load=load,
                    batch_size=size,
                    images=size,
                    gradient_checkpointing=checkpointing,
                    needed_gb=needed_gb(
                        load, batch_size=size, gradient_checkpointing=checkpointing
                    ),
                    seconds=seconds * (FP8_SLOWDOWN if load.half_base else 1.0),
                )


def _better(each: Rung, found: Rung) -> Rung:
    """`each` with no fewer images to a step, where that is an improvement on `found`."""
    images = -(-found.images // each.batch_size) * each.batch_size
    if images > AUTO_LIMIT or (each.load.half_base and not found.load.half_base):
        return found
    most = found.seconds
    if (each.batch_size, images) != (found.batch_size, found.images):
        most = found.seconds / (1 + MIN_GAIN)
    is_plainer = found.load.half_base and not each.load.half_base
    is_better = each.seconds < most or (is_plainer and each.seconds <= most)
    return replace(each, images=images) if is_better else found
