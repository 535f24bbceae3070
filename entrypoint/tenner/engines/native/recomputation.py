"""Which parts of a U-Net the backward pass computes again first, where not all are.

What a part keeps for the backward pass grows with tokens x channels, what it computes with tokens x
channels²: the narrower, the more bytes an operation frees. A transformer block keeps 23 maps of its
width for about 36 channels² operations a token, a residual block 2 to 5 for as many. So transformer
blocks come before residual blocks, and the narrow before the wide. Among equals the one that is
computed first comes first: its turn in the backward pass comes last, when the others have let go of
theirs. The last transformer block comes at the very end: it is computed again while everything else
is still kept, which frees nothing.

Counted on tensors without contents at rank 32, attention's operations left out: operations for a
byte are 256, 506 and 1,005 of transformer blocks of 320, 640 and 1,280 channels, and 1,920 to
2,500, 3,580 to 4,990 and 7,150 to 9,270 of residual blocks (SD 1.5 at 512 px; SDXL at 1024 px).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, order=True)
class Unit:
    """A residual block, or a transformer block, by its place in the forward pass among its like."""

    kind: Literal["block", "resnet"]
    channels: int
    index: int


def cheapest_first(units: Sequence[Unit]) -> tuple[Unit, ...]:
    """The units by what freeing a byte costs."""
    last = max((each.index for each in units if each.kind == "block"), default=None)

    def rank(unit: Unit) -> tuple[bool, bool, int, int]:
        is_block = unit.kind == "block"
        return is_block and unit.index == last, not is_block, unit.channels, unit.index

    return tuple(sorted(units, key=rank))
