"""Where the parts of a pipeline lie while a card draws: decided from their sizes alone.

Read by the plan, which states what drawing takes, and by the process that draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MEMORY_FACTOR = 1.2
"""Memory that drawing takes on a card, as a multiple of the weights."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """All parts on the card at once, or each whole part while it is used.

    `streamed` parts are copied to the card layer by layer each time they run. `is_8_bit` is whether
    the denoiser's weights are kept in 8 bits.
    """

    is_whole: bool = False
    is_8_bit: bool = False
    streamed: frozenset[str] = field(default_factory=frozenset[str])


def placement_of(sizes: Mapping[str, float], free: float, *, denoiser: str) -> Placement:
    """The fastest placement of parts of these sizes on a card with so much free memory, in bytes.

    The denoiser runs in each step: its weights are halved from 16 bits to 8 where it does not fit
    else. The other parts run once a picture, and are streamed where they do not fit.
    """

    def fits(size: float) -> bool:
        return size * MEMORY_FACTOR <= free

    if fits(sum(sizes.values())):
        return Placement(is_whole=True)
    is_8_bit = not fits(sizes[denoiser])
    if is_8_bit:
        sizes = {**sizes, denoiser: sizes[denoiser] / 2}
    streamed = frozenset(name for name, size in sizes.items() if not fits(size))
    return Placement(is_8_bit=is_8_bit, streamed=streamed)
