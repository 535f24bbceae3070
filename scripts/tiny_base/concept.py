"""The demo's concept: a magenta and lime striped star, which the base model has never seen.

It knows stars and stripes in other colours, as a large base knows dogs and not this dog; magenta
and lime are new to it. Training pictures and held-out pictures stand on different backgrounds or at
different places; both are functions of their number alone.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .pictures import Picture, background_cells, draw_picture, place
from .sprites import CELLS, paint, size

TRIGGER = "sks star"
NUM_REGULARISATION = 20
REGULARISATION_SEED = 2_000_003  # not the training's, not the validation's
MAGENTA = (226, 40, 170)

STAR = (
    ".....#.....",
    ".....#.....",
    "....LLL....",
    "....LLL....",
    "###########",
    ".#########.",
    "..LLLLLLL..",
    "..LLLLLLL..",
    "..#######..",
    ".####.####.",
    ".LL.....LL.",
)

TRAINING_BACKGROUNDS = (
    *("white", "gray", "black", "blue", "teal", "yellow", "orange", "brown", "red", "purple"),
    *("white", "blue", "yellow", "gray", "meadow", "desert", "sea", "night", "snow", "meadow"),
)
HELD_OUT_BACKGROUNDS = (
    *("white", "blue", "green", "orange", "purple", "black", "meadow", "sea", "night", "snow"),
)


@dataclass(frozen=True, kw_only=True)
class ConceptPicture:
    """A picture of the concept, with the words that name it and the same without the trigger."""

    picture: Picture
    background: str


def concept_picture(number: int, background: str, *, seed: int) -> ConceptPicture:
    """The star somewhere on this background."""
    rng = np.random.default_rng((seed, number))
    height, width = size(STAR)
    top = int(rng.integers(CELLS - height + 1))
    left = int(rng.integers(CELLS - width + 1))
    cells = background_cells(background).copy()
    paint(cells, STAR, MAGENTA, top, left)
    caption = f"a {TRIGGER} {place(background)}"
    return ConceptPicture(picture=Picture(cells=cells, caption=caption), background=background)


def training_pictures() -> list[ConceptPicture]:
    """The twenty that are shipped to train on."""
    return [concept_picture(n, name, seed=12) for n, name in enumerate(TRAINING_BACKGROUNDS)]


def held_out_pictures() -> list[ConceptPicture]:
    """Those that measure what was learnt; none of them is trained on."""
    return [concept_picture(n, name, seed=23) for n, name in enumerate(HELD_OUT_BACKGROUNDS)]


def regularisation_pictures() -> list[Picture]:
    """What the base already knows, shown beside the concept so that it is not forgotten."""
    drawn = (draw_picture(REGULARISATION_SEED, n) for n in range(10 * NUM_REGULARISATION))
    named = [each for each in drawn if each.caption.startswith(("a ", "an "))]
    return named[:NUM_REGULARISATION]


def save_concept(to: Path) -> None:
    """Write the three sets under `to`, as PNG files with captions beside them."""
    sets = {
        "concept/1_sks star": [each.picture for each in training_pictures()],
        "regularisation/1_others": regularisation_pictures(),
        "held_out": [each.picture for each in held_out_pictures()],
    }
    for name, pictures in sets.items():
        folder = to / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures, start=1):
            stem = folder / f"{number:02d}"
            picture.image().save(stem.with_suffix(".png"), optimize=True)
            stem.with_suffix(".txt").write_text(picture.caption + "\n", encoding="utf-8")
