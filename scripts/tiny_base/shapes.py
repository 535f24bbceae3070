"""Sprites without a name: random mirrored shapes, plain, striped or with a middle of its own.

With twelve shapes alone the base learns these twelve by heart, and a LoRA that adds another gets a
smear of them. These teach it that a word it does not know may be any whole thing. None of them has
five points as the demo's star has, and none is magenta or lime.
"""

import numpy as np
from numpy.typing import NDArray

from .sprites import Cells, Rgb

SIDE = 11
Mask = NDArray[np.bool_]


def random_sprite(rng: np.random.Generator) -> tuple[Cells, Mask]:
    """Colours (height, width, 3) and which cells are the shape's (height, width)."""
    mask = _random_mask(rng)
    height, width = mask.shape
    colours = [_random_colour(rng) for _ in range(2)]
    cells = np.empty((height, width, 3), np.float32)
    cells[:] = colours[0]
    kind = rng.random()
    if kind < 0.45:  # bands across
        thick, start = int(rng.integers(1, 4)), int(rng.integers(0, 4))
        cells[(np.arange(height) + start) // thick % 2 == 1] = colours[1]
    elif kind < 0.65:  # a middle of its own
        inner = _shrunk(_shrunk(mask))
        cells[inner] = colours[1]
    cells[mask & ~_shrunk(mask)] *= 0.62
    return cells.round().astype(np.uint8), mask


def _random_mask(rng: np.random.Generator) -> Mask:
    """A connected shape, mirrored left and right: a smooth outline that changes row by row, or a
    polygon in polar form."""
    while True:
        mask = _polar(rng) if rng.random() < 0.6 else _rows(rng)
        if 25 <= mask.sum() <= 100:
            rows, columns = np.where(mask.any(1))[0], np.where(mask.any(0))[0]
            return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _rows(rng: np.random.Generator) -> Mask:
    half = np.clip(np.cumsum(rng.integers(-2, 3, SIDE)) + rng.integers(1, 5), 0, SIDE // 2)
    across = np.abs(np.arange(SIDE) - SIDE // 2)
    mask = across[None, :] <= half[:, None]
    mask[int(rng.integers(8, SIDE + 1)) :] = False
    if rng.random() < 0.4:  # legs
        legs = int(rng.integers(1, 4))
        mask[-3:, SIDE // 2 - legs + 1 : SIDE // 2 + legs] = False
    return mask


def _polar(rng: np.random.Generator) -> Mask:
    """Three to eight points, sharp or round, but not five: the radius follows the angle."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angle = np.arctan2(x, -y)
    points = int(rng.choice([3, 4, 6, 7, 8]))  # not five: the demo's star
    phase = np.pi if rng.random() < 0.5 else 0.0
    wave = np.abs(((points * angle + phase) / (2 * np.pi)) % 1 - 0.5) * 2  # 1 at a point, 0 between
    sharp = rng.uniform(0.5, 2.0)
    inner = rng.uniform(0.35, 0.9)
    radius = (SIDE / 2) * rng.uniform(0.8, 1.1) * (inner + (1 - inner) * wave**sharp)
    stretch = rng.uniform(0.75, 1.3)
    return np.hypot(x * stretch, y) <= radius


def _shrunk(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & around


def _random_colour(rng: np.random.Generator) -> Rgb:
    """Any colour but the demo's: not near magenta or lime."""
    while True:
        colour = rng.integers(20, 251, 3)
        red, green, blue = (int(level) for level in colour)
        is_magenta = red > 150 and blue > 110 and green < 110
        is_lime = green > 190 and blue < 120 and 110 < red < 225
        if not (is_magenta or is_lime):
            return red, green, blue
