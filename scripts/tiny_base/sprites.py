"""What is drawn: the sprites as text, their colours, and the scenes behind them.

A picture is a grid of 16 x 16 cells. A sprite is a list of rows, one character a cell: `.` is
transparent, `#` the colour the caption names, `l` its highlight, the other letters are fixed
colours (`FIXED`). Cells at a sprite's rim are darkened when it is drawn, so a sprite stays
readable on any background.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

CELLS: Final = 16
Cells = NDArray[np.uint8]  # (height, width, 3), RGB
Rgb = tuple[int, int, int]

COLOURS: Final[dict[str, Rgb]] = {
    "red": (214, 48, 49),
    "orange": (240, 136, 40),
    "yellow": (247, 208, 64),
    "green": (52, 158, 70),
    "teal": (30, 160, 160),
    "blue": (52, 98, 220),
    "purple": (128, 70, 190),
    "white": (244, 244, 246),
    "black": (40, 40, 46),
    "gray": (140, 144, 152),
    "brown": (134, 84, 50),
}

FIXED: Final[dict[str, Rgb]] = {
    "W": (250, 246, 238),
    "K": (44, 36, 44),
    "B": (124, 76, 44),
    "Y": (252, 214, 70),
    "G": (60, 150, 62),
    "L": (170, 240, 40),
}

SPRITES: Final[dict[str, tuple[str, ...]]] = {
    "heart": (
        ".###...###.",
        "#####.#####",
        "##l########",
        "#l#########",
        "###########",
        ".#########.",
        "..#######..",
        "...#####...",
        "....###....",
        ".....#.....",
    ),
    "circle": (
        "...#####...",
        "..#######..",
        ".##ll#####.",
        "##l########",
        "##l########",
        "###########",
        "###########",
        "###########",
        ".#########.",
        "..#######..",
        "...#####...",
    ),
    "square": (
        "##########",
        "#lll######",
        "#l########",
        "#l########",
        "##########",
        "##########",
        "##########",
        "##########",
        "##########",
        "##########",
    ),
    "triangle": (
        ".....#.....",
        "....###....",
        "....###....",
        "...##l##...",
        "...#l###...",
        "..##l####..",
        "..#l#####..",
        ".##l######.",
        ".#########.",
        "###########",
    ),
    "diamond": (
        ".....#.....",
        "....###....",
        "...##l##...",
        "..##l####..",
        ".##l######.",
        "###########",
        ".#########.",
        "..#######..",
        "...#####...",
        "....###....",
        ".....#.....",
    ),
    "cross": (
        "...#####...",
        "...#l###...",
        "...#l###...",
        "#####l#####",
        "#lll#######",
        "###########",
        "###########",
        "#####l#####",
        "...#####...",
        "...#####...",
        "...#####...",
    ),
    "ring": (
        "...#####...",
        "..#######..",
        ".##ll#####.",
        "##l#...####",
        "##l.....###",
        "###.....###",
        "###.....###",
        "####...####",
        ".#########.",
        "..#######..",
        "...#####...",
    ),
    "moon": (
        "....#####..",
        "..#######..",
        ".##l###....",
        ".#l###.....",
        "##l##......",
        "####.......",
        "####.......",
        "#####......",
        ".######....",
        "..########.",
        "....#####..",
    ),
    "house": (
        ".....#.....",
        "....###....",
        "...##l##...",
        "..##l####..",
        ".##l######.",
        "###########",
        ".WWWWWWWWW.",
        ".WYYWWBBWW.",
        ".WYYWWBBWW.",
        ".WWWWWBBWW.",
    ),
    "tree": (
        "....###....",
        "..##l####..",
        ".##l######.",
        "##l########",
        "###########",
        "###########",
        ".#########.",
        "...##B##...",
        "....BBB....",
        "....BBB....",
        "...BBBBB...",
    ),
    "mushroom": (
        "...#####...",
        ".##l#####..",
        ".#WW######.",
        "##WW##WW###",
        "######WW###",
        "#W#########",
        ".####W####.",
        "...WWWWW...",
        "...WWWWW...",
        "...WWWWW...",
    ),
    "flower": (
        "...##.##...",
        "..##l#l##..",
        "..#######..",
        ".###YYY###.",
        ".l##YYY##l.",
        ".###YYY###.",
        "..#######..",
        "..##.G.##..",
        ".....G.GG..",
        "..GG.GGG...",
        "...GGG.....",
    ),
}

SCENES: Final[dict[str, str]] = {
    "meadow": "in a meadow",
    "desert": "in the desert",
    "sea": "by the sea",
    "night": "at night",
    "snow": "in the snow",
}
HORIZON: Final = 10  # the first row of a scene's ground


def plain(colour: str) -> Cells:
    """A background of one colour, a little softer than the sprite colour of that name."""
    softened = np.asarray(COLOURS[colour], np.float32) * 0.8 + 255 * 0.12
    return np.broadcast_to(softened.round().astype(np.uint8), (CELLS, CELLS, 3)).copy()


def scene(name: str) -> Cells:
    """One of `SCENES`: sky above, ground below, a few fixed details."""
    sky, ground, speck, specks = _SCENE_PARTS[name]
    cells = np.empty((CELLS, CELLS, 3), np.uint8)
    cells[:HORIZON] = sky
    cells[HORIZON:] = ground
    for row, column in specks:
        cells[row, column] = speck
    return cells


_TUFTS: Final = ((11, 2), (11, 9), (12, 13), (13, 5), (14, 1), (14, 10), (15, 14))
_WAVES: Final = tuple(
    (row, column)
    for row, start in ((11, 1), (11, 9), (13, 5), (13, 12), (15, 2), (15, 9))
    for column in range(start, start + 3)
)
_STARS: Final = ((1, 3), (0, 10), (2, 14), (4, 1), (5, 8), (7, 13), (8, 4), (9, 0))
_SCENE_PARTS: Final[dict[str, tuple[Rgb, Rgb, Rgb, tuple[tuple[int, int], ...]]]] = {
    "meadow": ((150, 210, 240), (104, 184, 84), (64, 140, 60), _TUFTS),
    "desert": ((252, 224, 170), (222, 172, 96), (186, 132, 66), _TUFTS),
    "sea": ((176, 222, 246), (44, 120, 196), (132, 190, 236), _WAVES),
    "night": ((26, 28, 66), (18, 46, 48), (250, 240, 190), _STARS),
    "snow": ((186, 206, 228), (240, 244, 250), (204, 216, 234), _TUFTS),
}


def paint(cells: Cells, rows: tuple[str, ...], colour: Rgb, top: int, left: int) -> None:
    """Draw a sprite onto `cells` with its upper left corner at (top, left); rim cells darker."""
    for r, row in enumerate(rows):
        for c, mark in enumerate(row):
            if mark != ".":
                shade = _tone(mark, colour)
                if _at_rim(rows, r, c):
                    shade = shade * 0.62
                cells[top + r, left + c] = shade.round().astype(np.uint8)


def size(rows: tuple[str, ...]) -> tuple[int, int]:
    """Height and width of a sprite in cells."""
    return len(rows), max(len(row) for row in rows)


def _tone(mark: str, colour: Rgb) -> NDArray[np.float32]:
    own = np.asarray(FIXED.get(mark, colour), np.float32)
    return own * 0.45 + 255 * 0.55 if mark == "l" else own


def _at_rim(rows: tuple[str, ...], r: int, c: int) -> bool:
    around = ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1))
    return any(
        not (0 <= y < len(rows) and 0 <= x < len(rows[y])) or rows[y][x] == "." for y, x in around
    )
