"""The grid of all pictures as one image: strengths as columns, seeds as rows.

It uses Pillow alone. Small pictures are enlarged with nearest neighbour, which adds no detail that
the model has not drawn; large ones are reduced. The image has its own background, for dark and
light pages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tenner.sample.job import Samples

CELL_PIXELS = 256
MARGIN = 28
GAP = 8
BACKGROUND = (23, 25, 30)
INK = (236, 238, 242)
QUIET = (158, 165, 178)
HOLE = (38, 41, 48)

# Fonts of systems with Arabic, Greek and Cyrillic; Pillow's own has Latin only
SYSTEM_FONTS = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf",
    "/Library/Fonts/Arial Unicode.ttf",
    "C:/Windows/Fonts/arial.ttf",
)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of the grid with its labels."""

    image: Image.Image
    group: str = ""
    row: str = ""
    column: str = ""


def read_tiles(listing: Path) -> tuple[Tile, ...]:
    """The tiles of a `samples.json`. Raises OSError or ValueError where pictures are missing."""
    found: list[Tile] = []
    for sample in Samples.read(listing).samples:
        with Image.open(listing.parent / sample.file) as image:
            picture = image.convert("RGB")
        cell = sample.cell
        found.append(Tile(image=picture, group=cell.group, row=cell.row, column=cell.column))
    return tuple(found)


def draw_grid(
    tiles: Sequence[Tile], *, title: str = "", cell_pixels: int = CELL_PIXELS
) -> Image.Image:
    """The sheet: group after group, each with its column heads and row heads.

    Raises ValueError for no tiles.
    """
    if not tiles:
        raise ValueError("a grid needs at least one picture")
    groups = [_Group.of(name, tiles) for name in dict.fromkeys(tile.group for tile in tiles)]
    ratio = tiles[0].image.height / tiles[0].image.width
    cell = (cell_pixels, round(cell_pixels * ratio))
    metrics = _Metrics.of(cell, groups)
    width = max(metrics.width(group) for group in groups)
    head = metrics.title_height if title else 0
    sheet = Image.new("RGB", (width, head + sum(map(metrics.height, groups)) + MARGIN), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    if title:
        _write(pen, (MARGIN, MARGIN), title, metrics.title_size, INK, width - 2 * MARGIN)
    top = head
    for group in groups:
        _draw_group(sheet, pen, group, metrics, top)
        top += metrics.height(group)
    return sheet


@dataclass(frozen=True, kw_only=True)
class _Group:
    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    at: dict[tuple[str, str], Image.Image]

    @classmethod
    def of(cls, name: str, tiles: Sequence[Tile]) -> "_Group":
        own = [tile for tile in tiles if tile.group == name]
        return cls(
            name=name,
            rows=tuple(dict.fromkeys(tile.row for tile in own)),
            columns=tuple(dict.fromkeys(tile.column for tile in own)),
            at={(tile.row, tile.column): tile.image for tile in own},
        )


@dataclass(frozen=True, kw_only=True)
class _Metrics:
    """Sizes in pixels, derived from the size of a cell."""

    cell: tuple[int, int]
    label_size: int
    title_size: int
    row_head: int

    @classmethod
    def of(cls, cell: tuple[int, int], groups: Sequence[_Group]) -> "_Metrics":
        label = max(11, round(cell[0] * 0.075))
        rows = [row for group in groups for row in group.rows]
        head = max(round(text_width(row, label)) for row in rows)
        return cls(
            cell=cell,
            label_size=label,
            title_size=round(label * 1.5),
            row_head=head + 2 * GAP if head else 0,
        )

    @property
    def title_height(self) -> int:
        return MARGIN + round(self.title_size * 1.4)

    def group_head(self, group: _Group) -> int:
        name = round(self.label_size * 1.9) if group.name else 0
        return MARGIN + name + round(self.label_size * 1.9)

    def width(self, group: _Group) -> int:
        return 2 * MARGIN + self.row_head + len(group.columns) * (self.cell[0] + GAP) - GAP

    def height(self, group: _Group) -> int:
        return self.group_head(group) + len(group.rows) * (self.cell[1] + GAP) - GAP


def _draw_group(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, group: _Group, metrics: _Metrics, top: int
) -> None:
    size, (width, height) = metrics.label_size, metrics.cell
    if group.name:
        _write(
            pen,
            (MARGIN, top + MARGIN),
            group.name,
            round(size * 1.15),
            INK,
            sheet.width - 2 * MARGIN,
        )
    first = top + metrics.group_head(group)
    left = MARGIN + metrics.row_head
    for column_index, column in enumerate(group.columns):
        x = left + column_index * (width + GAP)
        _write(
            pen,
            (x + width // 2, first - round(size * 0.6)),
            column,
            size,
            QUIET,
            width,
            anchor="ms",
        )
    for row_index, row in enumerate(group.rows):
        y = first + row_index * (height + GAP)
        _write(pen, (MARGIN, y + height // 2), row, size, QUIET, metrics.row_head, anchor="lm")
        for column_index, column in enumerate(group.columns):
            x = left + column_index * (width + GAP)
            image = group.at.get((row, column))
            if image is None:
                pen.rectangle((x, y, x + width - 1, y + height - 1), fill=HOLE)
            else:
                sheet.paste(fit(image, (width, height)), (x, y))


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`image` at `size`: enlarged with nearest neighbour, reduced with Lanczos."""
    smaller = image.width < size[0]
    return image.resize(size, Image.Resampling.NEAREST if smaller else Image.Resampling.LANCZOS)


def _write(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    ink: tuple[int, int, int],
    width: int,
    *,
    anchor: str = "la",
) -> None:
    """Write `text` at `at` in one line, cut with an ellipsis where it is wider than `width`."""
    line = shorten(" ".join(text.split()), width, lambda part: text_width(part, size))
    pen.text(at, line, fill=ink, font=font_for(line, size), anchor=anchor)


def shorten(text: str, max_width: float, width: Callable[[str], float]) -> str:
    """The longest start of `text` that fits in `width`, with an ellipsis where it was cut."""
    if width(text) <= max_width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width(f"{text[:middle]}…") <= max_width else (low, middle - 1)
    return f"{text[:low].rstrip()}…"


def text_width(text: str, size: int) -> float:
    return font_for(text, size).getlength(text)


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, or one of the system's where the text is not Latin."""
    if all(ord(letter) < 0x250 or letter in "…–—’“”" for letter in text):
        return _font("", size)
    found = next((path for path in SYSTEM_FONTS if Path(path).exists()), "")
    return _font(found, size)


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(path, size) if path else ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OSError("Pillow was built without FreeType: no text can be drawn")
    return font
