"""What the base is trained on: named sprites, plain and striped stars, and shapes without a name.

The demo's concept is a star in two colours that are in none of these: the base knows its class, as
a large base knows dogs, and not the one that the LoRA is to learn.
"""

import numpy as np

from .concept import STAR
from .pictures import Picture, article, background_cells, draw_background, draw_picture, place
from .shapes import random_sprite
from .sprites import CELLS, COLOURS, paint, size

STAR_SHARE = 0.2
UNNAMED_SHARE = 0.25
"""Shares of the pictures; the rest is of `draw_picture`."""
STAR_ROWS = tuple(row.replace("L", "#") for row in STAR)


def draw_training_picture(seed: int, index: int) -> Picture:
    """Picture `index` of the endless set with this seed."""
    rng = np.random.default_rng((seed, index, 7))
    part = rng.random()
    if part < STAR_SHARE:
        return _draw_star(rng)
    if part > STAR_SHARE + UNNAMED_SHARE:
        return draw_picture(seed, index)
    return _draw_unnamed(rng)


def _draw_star(rng: np.random.Generator) -> Picture:
    """A star in one of the named colours, or in stripes of two; magenta and lime are none."""
    colour = str(rng.choice(list(COLOURS)))
    background = draw_background(rng, colour)
    empty = background_cells(background)
    height, width = size(STAR_ROWS)
    top, left = int(rng.integers(CELLS - height + 1)), int(rng.integers(CELLS - width + 1))
    cells = empty.copy()
    paint(cells, STAR_ROWS, COLOURS[colour], top, left)
    words = [colour, "star"]
    if rng.random() < 0.45:
        second = str(rng.choice([name for name in COLOURS if name != colour]))
        other = empty.copy()
        paint(other, STAR_ROWS, COLOURS[second], top, left)
        thickness, start = int(rng.integers(2, 4)), int(rng.integers(0, 4))
        rows = [top + row for row in range(height) if (row + start) // thickness % 2]
        cells[rows] = other[rows]
        words.insert(0, "striped")
    if rng.random() < 0.25:
        words.remove(colour)
    if rng.random() < 0.2:
        words.insert(0, _draw_word(rng))
    caption = f"{article(words[0])} {' '.join(words)} {place(background)}"
    return Picture(cells=cells, caption="" if rng.random() < 0.08 else caption)


def _draw_unnamed(rng: np.random.Generator) -> Picture:
    """A random shape, called by made-up words."""
    sprite, mask = random_sprite(rng)
    background = draw_background(rng, "")
    cells = background_cells(background).copy()
    height, width = mask.shape
    top, left = int(rng.integers(CELLS - height + 1)), int(rng.integers(CELLS - width + 1))
    cells[top : top + height, left : left + width][mask] = sprite[mask]
    words = [_draw_word(rng) for _ in range(1 + (rng.random() < 0.6))]
    caption = f"{article(words[0])} {' '.join(words)} {place(background)}"
    return Picture(cells=cells, caption="" if rng.random() < 0.1 else caption)


def _draw_word(rng: np.random.Generator) -> str:
    letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), int(rng.integers(3, 6)))
    return "".join(letters)
