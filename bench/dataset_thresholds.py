"""Prints the blur measure of sharp and of blurred pictures, at training size.

Run: python bench/dataset_thresholds.py [FOLDER OF SHARP PHOTOS]
Without a folder the pictures are generated: rectangles, and noise of natural (1/f) spectrum,
which is softer than a photo. Prints quantiles of the measure for each strength of blur, and how
many of each `judge_images.BLURRED` would name.
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tenner.dataset import measure
from tenner.dataset.judge_images import BLURRED

SIDE = 512


def shrunk(image: Image.Image) -> Image.Image:
    """The picture shrunk by a whole factor to about the training size, never enlarged."""
    factor = measure.shrink_factor(*image.size, SIDE**2)
    return image.reduce(factor) if factor > 1 else image


def rectangles(seed: int) -> Image.Image:
    chance = random.Random(seed)
    image = Image.new("L", (SIDE, SIDE), chance.randrange(256))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        left, top = chance.randrange(SIDE), chance.randrange(SIDE)
        box = (left, top, left + chance.randrange(10, 200), top + chance.randrange(10, 200))
        draw.rectangle(box, fill=chance.randrange(256))
    return image


def natural_noise(seed: int) -> Image.Image:
    """Octaves of noise, each twice as large and twice as strong as the one before."""
    del seed
    image = Image.new("L", (SIDE, SIDE), 128)
    for octave in range(8):
        side = SIDE >> octave
        layer = Image.effect_noise((max(side, 2), max(side, 2)), 10 * 1.6**octave)
        layer = layer.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image = ImageChops.add(image, layer, scale=1, offset=-128)
    return image


def main() -> None:
    if len(sys.argv) > 1:
        sharp = []
        for path in sorted(Path(sys.argv[1]).iterdir()):
            with Image.open(path) as photo:
                sharp.append(shrunk(photo.convert("RGB")).convert("L"))
        kinds = {"photos": sharp}
    else:
        kinds = {
            "rectangles": [rectangles(seed) for seed in range(30)],
            "natural noise": [natural_noise(seed) for seed in range(30)],
        }
    for kind, images in kinds.items():
        for sigma in (0, 1, 2, 3, 4, 6, 8):
            blurred = [image.filter(ImageFilter.GaussianBlur(sigma)) for image in images]
            values = sorted(v for v in map(measure.blur, blurred) if v is not None)
            if not values:
                continue
            named = sum(value > BLURRED for value in values)
            print(
                f"{kind:14} sigma {sigma}: {values[0]:.2f} {values[len(values) // 2]:.2f} "
                f"{values[-1]:.2f} (least, median, most), named {named} of {len(images)}"
            )


if __name__ == "__main__":
    main()
