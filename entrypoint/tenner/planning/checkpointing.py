"""What gradient checkpointing of some of a U-Net's blocks frees and costs, as shares of all. Pure.

The built-in trainer recomputes the cheapest blocks first (`engines.native.recomputation`), so a
number of them says which. Memory is the peak of a traced step at rank 32 and batch 1, work and
kernels are counts of the recomputed forward passes: `python -m bench.traced_memory --levels` prints
the table. Levels are where the blocks' kind or width changes, and further ones in SDXL's long row
of equal blocks; between them they are interpolated.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from tenner.core.family import Family


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Of the bytes freed, of the arithmetic added and of the kernels added by all `blocks`."""

    blocks: int
    memory: float
    work: float
    kernels: float


def _levels(rows: str) -> tuple[Shares, ...]:
    found: list[Shares] = []
    for row in rows.strip().splitlines():
        blocks, memory, work, kernels = map(float, row.split())
        found.append(Shares(blocks=int(blocks), memory=memory, work=work, kernels=kernels))
    return tuple(found)


_SD1 = _levels("""
    0 0.0000 0.0000 0.0000
    4 0.4439 0.2138 0.1755
    9 0.6974 0.3439 0.3950
    15 0.8388 0.4606 0.6583
    20 0.9130 0.6179 0.7257
    25 0.9548 0.7646 0.7947
    37 0.9814 0.9465 0.9561
    38 1.0000 1.0000 1.0000
""")
_SDXL = _levels("""
    0 0.0000 0.0000 0.0000
    4 0.0971 0.0657 0.0532
    9 0.2163 0.1479 0.1196
    19 0.3366 0.2519 0.2525
    29 0.4568 0.3559 0.3854
    39 0.5771 0.4599 0.5183
    49 0.6973 0.5639 0.6512
    59 0.8176 0.6679 0.7841
    69 0.9379 0.7719 0.9169
    74 0.9565 0.8411 0.9374
    80 0.9738 0.9128 0.9625
    86 0.9844 0.9836 0.9867
    87 1.0000 1.0000 1.0000
""")
LEVELS: Mapping[Family, tuple[Shares, ...]] = {
    "sd1": _SD1,
    "sd2": _SD1,
    "sdxl": _SDXL,
}
"""From none to all blocks. SD 2.x as SD 1.x, whose blocks it has: what its levels free differs by
less than 0.001, what they cost by nothing."""


def num_blocks(family: Family) -> int:
    """Residual and transformer blocks of a U-Net."""
    return LEVELS[family][-1].blocks


def shares_of(family: Family, blocks: int) -> Shares:
    """Of recomputing so many blocks, the cheapest first; more than there are count as all."""
    levels = LEVELS[family]
    index = bisect_left(levels, blocks, key=lambda level: level.blocks)
    if index == 0 or index == len(levels):
        return levels[min(index, len(levels) - 1)]
    below, above = levels[index - 1], levels[index]
    part = (blocks - below.blocks) / (above.blocks - below.blocks)
    return Shares(
        blocks=blocks,
        memory=below.memory + part * (above.memory - below.memory),
        work=below.work + part * (above.work - below.work),
        kernels=below.kernels + part * (above.kernels - below.kernels),
    )
