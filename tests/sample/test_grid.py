"""The grid picture."""

import pytest
from PIL import Image

from tenner.sample.grid import BACKGROUND, Tile, draw_grid, shorten


def tile(color: str, row: str, column: str, group: str = "g", size: int = 16) -> Tile:
    return Tile(image=Image.new("RGB", (size, size), color), row=row, column=column, group=group)


def test_every_picture_stands_in_its_row_and_column() -> None:
    tiles = [tile("red", "1", "a"), tile("lime", "1", "b"), tile("blue", "2", "a")]
    sheet = draw_grid(tiles, cell_pixels=64)
    colors = {(255, 0, 0): (0, 0), (0, 255, 0): (0, 0), (0, 0, 255): (0, 0)}
    for color in colors:
        positions = [
            (x, y)
            for y in range(sheet.height)
            for x in range(sheet.width)
            if sheet.getpixel((x, y)) == color
        ]
        assert len(positions) == 64 * 64
        colors[color] = positions[0]
    red, lime, blue = colors.values()
    assert red[1] == lime[1] < blue[1]
    assert red[0] == blue[0] < lime[0]
    assert sheet.getpixel((0, 0)) == BACKGROUND


def test_small_pictures_keep_hard_pixels() -> None:
    image = Image.new("RGB", (2, 2), "red")
    image.putpixel((1, 1), (0, 0, 255))
    sheet = draw_grid([Tile(image=image)], cell_pixels=64)
    inks = {color for _, color in sheet.getcolors(1 << 20) or ()}
    assert {(255, 0, 0), (0, 0, 255)} <= inks
    assert (128, 0, 128) not in inks


def test_long_and_foreign_words_do_not_break_the_sheet() -> None:
    long = draw_grid([tile("red", "seed 1", "0.5", "نجمة على العشب 🐱 " * 40)], cell_pixels=64)
    short = draw_grid([tile("red", "seed 1", "0.5", "x")], cell_pixels=64)
    assert long.size == short.size


def test_no_pictures_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        draw_grid([])


def test_a_shortened_text_ends_with_an_ellipsis() -> None:
    assert shorten("abcdef", 4, len) == "abc…"
    assert shorten("abcd", 4, len) == "abcd"
