"""The order in which a U-Net's blocks are recomputed in the backward pass, where not all are.

What a block saves for the backward pass grows with tokens x channels, its operations with tokens x
channels²: the narrower it is, the more bytes each recomputed operation frees. A transformer block
saves 23 maps of its width for about 36 channels² operations a token, a residual block 2 to 5 for
as many. So transformer blocks come before residual blocks, and narrow ones before wide ones. Among
equal blocks the earlier in the forward pass comes first: the backward pass reaches it last, when
the others have freed their memory. The last transformer block comes at the very end: it is
recomputed while all other blocks' memory is still in use, so the peak stays as it is.

Operations for a byte, counted on fake tensors at rank 32 without attention's products: 256, 506
and 1,005 for transformer blocks of 320, 640 and 1,280 channels; 1,920 to 2,500, 3,580 to 4,990 and
7,150 to 9,270 for residual blocks (SD 1.5 at 512 px; SDXL at 1024 px).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, order=True)
class Unit:
    """A residual or transformer block; `index` is its position among those of its kind in the
    forward pass."""

    kind: Literal["block", "resnet"]
    channels: int
    index: int


def cheapest_first(units: Sequence[Unit]) -> tuple[Unit, ...]:
    """The units in ascending order of operations for a freed byte."""
    last = max((each.index for each in units if each.kind == "block"), default=None)

    def rank(unit: Unit) -> tuple[bool, bool, int, int]:
        is_block = unit.kind == "block"
        return is_block and unit.index == last, not is_block, unit.channels, unit.index

    return tuple(sorted(units, key=rank))
