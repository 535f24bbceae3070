"""How far drawn pictures are from real ones of the concept, as a number.

The sliced Wasserstein distance between the small patches of two pictures, as Karras et al. used
it to judge generated images (arXiv 1710.10196, section 5): where in the picture the concept stands
does not matter, its colours and its pattern do. A patch is 3 x 3 cells, a cell one 4 x 4 block of
pixels, so a patch is 27 numbers; patches are projected on 256 fixed random directions and the
sorted projections compared. The unit is colour levels (0 to 255).

What to expect is measured by `tests/tiny/test_measure.py` on the shipped pictures: two real
pictures of the concept on the same background at different positions are about 2 apart, the empty
background and the concept about 20.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CELLS = 16
PATCH = 3
NUM_DIRECTIONS = 256

Floats = NDArray[np.float64]


def concept_distance(drawn: Sequence[Image.Image], real: Sequence[Image.Image]) -> float:
    """Mean distance of each drawn picture to the real one at the same index in `real`.

    Both are given the same background, so what differs is the concept. Raises ValueError where the
    numbers of pictures differ or there are none.
    """
    if not drawn or len(drawn) != len(real):
        raise ValueError("expected as many drawn pictures as real ones, and at least one")
    distances = [picture_distance(one, other) for one, other in zip(drawn, real, strict=True)]
    return float(np.mean(distances))


def picture_distance(one: Image.Image, other: Image.Image) -> float:
    """The sliced Wasserstein distance of two pictures' patches, in colour levels."""
    directions = _directions()
    sorted_one = np.sort(_patches(one) @ directions, axis=0)
    sorted_other = np.sort(_patches(other) @ directions, axis=0)
    return float(np.abs(sorted_one - sorted_other).mean())


def _patches(image: Image.Image) -> Floats:
    """All patches of the picture's cells, (patches, numbers in a patch)."""
    cells = image.convert("RGB").resize((CELLS, CELLS), Image.Resampling.BOX)
    levels: NDArray[Any] = np.asarray(cells, np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(levels, (PATCH, PATCH), axis=(0, 1))
    return windows.reshape(-1, 3 * PATCH * PATCH)


def _directions() -> Floats:
    """Unit vectors, (numbers in a patch, directions); the same ones every time."""
    drawn = np.random.default_rng(0).standard_normal((3 * PATCH * PATCH, NUM_DIRECTIONS))
    return drawn / np.linalg.norm(drawn, axis=0)
