"""Which captioned pictures the base model learns from; each is a function of (seed, index)."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from .sprites import CELLS, COLOURS, SCENES, SPRITES, Cells, paint, plain, scene, size

PIXELS_PER_CELL = 4
MEDIA = ("pixel art of ", "a picture of ", "a small icon of ")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A 16 x 16 grid of cells and the words for it."""

    cells: Cells
    caption: str

    def image(self, pixels_per_cell: int = PIXELS_PER_CELL) -> Image.Image:
        """The picture as the model sees it: 64 x 64 pixels with the default cell size."""
        side = CELLS * pixels_per_cell
        return Image.fromarray(self.cells).resize((side, side), Image.Resampling.NEAREST)


def draw_picture(seed: int, index: int) -> Picture:
    """Picture `index` of the endless set with this seed: one sprite on one background."""
    rng = np.random.default_rng((seed, index))
    shape = str(rng.choice(list(SPRITES)))
    colour = str(rng.choice(list(COLOURS)))
    background = draw_background(rng, colour)
    rows = SPRITES[shape]
    height, width = size(rows)
    cells = background_cells(background).copy()
    top, left = int(rng.integers(CELLS - height + 1)), int(rng.integers(CELLS - width + 1))
    paint(cells, rows, COLOURS[colour], top, left)
    return Picture(cells=cells, caption=_draw_caption(rng, colour, shape, background))


@cache
def background_cells(background: str) -> Cells:
    """The empty background of this name: a colour or a scene. Shared: copy before painting."""
    return scene(background) if background in SCENES else plain(background)


def place(background: str) -> str:
    """The words for a background: "on a blue background", "in a meadow"."""
    if background in SCENES:
        return SCENES[background]
    return f"on {article(background)} {background} background"


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def draw_background(rng: np.random.Generator, colour: str) -> str:
    if rng.random() < 0.3:
        return str(rng.choice(list(SCENES)))
    return str(rng.choice([name for name in COLOURS if name != colour]))


def _draw_caption(rng: np.random.Generator, colour: str, shape: str, background: str) -> str:
    """Mostly everything is named; sometimes the colour, the place or all is left out.

    Empty captions teach the unconditional half of classifier-free guidance. Made-up words teach
    the text encoder that a word it does not know changes nothing, so a LoRA's trigger starts
    from the base's ordinary pictures.
    """
    if rng.random() < 0.1:
        return ""
    words = [shape]
    if rng.random() < 0.9:
        words.insert(0, colour)
    if rng.random() < 0.1:
        letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), int(rng.integers(3, 6)))
        words.insert(0, "".join(letters))
    caption = f"{article(words[0])} {' '.join(words)}"
    if rng.random() < 0.2:
        caption = f"{rng.choice(MEDIA)}{caption}"
    return f"{caption} {place(background)}" if rng.random() < 0.95 else caption
