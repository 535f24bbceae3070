"""Small pictures with texture, so that blur and likeness have something to measure."""

import random
from pathlib import Path

from PIL import Image, ImageDraw


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Rectangles and lines of colours drawn from `seed`."""
    chance = random.Random(seed)
    image = Image.new("RGB", size, _color(chance))
    draw = ImageDraw.Draw(image)
    for _ in range(25):
        left, top = chance.randrange(size[0]), chance.randrange(size[1])
        box = (left, top, left + chance.randrange(4, 40), top + chance.randrange(4, 30))
        draw.rectangle(box, fill=_color(chance), outline=_color(chance))
    return image


def _color(chance: random.Random) -> tuple[int, int, int]:
    return chance.randrange(256), chance.randrange(256), chance.randrange(256)


def write_set(folder: Path, count: int, *, suffix: str = ".png", first: int = 0) -> list[Path]:
    """`count` different pictures with captions, `img000.png` + `img000.txt` on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for number in range(first, first + count):
        path = folder / f"img{number:03d}{suffix}"
        picture(number).save(path)
        path.with_suffix(".txt").write_text(f"a sks toy, number {number}", encoding="utf-8")
        paths.append(path)
    return paths
