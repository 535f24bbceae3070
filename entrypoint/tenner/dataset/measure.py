"""Measures of a picture's quality from its pixels: blur, blocks, exposure, likeness.

Runs in the worker processes, on Pillow alone. Every measure is taken at about the size the trainer
will see, for a flaw that shrinking removes is not learnt.
"""

from io import BytesIO
from itertools import pairwise

from PIL import Image, ImageChops, ImageFilter

GRID = 4
"""Blur is judged on the sharpest of GRID x GRID parts, so that a soft background is no fault."""

REBLUR_RADIUS = 4
"""Half-width in pixels of the low-pass, as in Crété et al. 2007 (a 9-tap filter)."""

MIN_GRADIENT = 1.0
"""Mean grey step below which a part holds no edge to judge."""

BLOCK = 8
CROP = 512


def shrink_factor(width: int, height: int, training_area: int) -> int:
    """The whole factor that shrinks a picture to about `training_area` pixels; never below 1."""
    scale = (width * height / training_area) ** 0.5
    return max(1, min(round(scale), width // 16, height // 16))


def blur(grey: Image.Image) -> float | None:
    """How much of the picture's variation survives a second blurring: 0 none (sharp), 1 all.

    After Crété-Roffet, Dolmiere, Ladret, Nicolas: "The Blur Effect: Perception and Estimation with
    a New No-Reference Perceptual Blur Metric", SPIE 2007. Of both directions the blurrier counts
    (motion blurs one only); of the parts the sharpest. None where no part has an edge.
    """
    across = _parts_blur(grey, horizontal=True)
    along = _parts_blur(grey, horizontal=False)
    both = [
        max(one, other)
        for one, other in zip(across, along, strict=True)
        if one is not None and other is not None
    ]
    if both:
        return min(both)
    either = [value for value in (*across, *along) if value is not None]
    return min(either) if either else None


def _parts_blur(grey: Image.Image, *, horizontal: bool) -> list[float | None]:
    radius = (REBLUR_RADIUS, 0) if horizontal else (0, REBLUR_RADIUS)
    steps = _steps(grey, horizontal=horizontal)
    difference = ImageChops.subtract(
        steps, _steps(grey.filter(ImageFilter.BoxBlur(radius)), horizontal=horizontal)
    )
    return [
        1.0 - lost / total if total > MIN_GRADIENT else None
        for total, lost in zip(_part_means(steps), _part_means(difference), strict=True)
    ]


def _steps(grey: Image.Image, *, horizontal: bool) -> Image.Image:
    """Absolute difference of neighbouring pixels."""
    width, height = grey.size
    if horizontal:
        ahead, behind = (1, 0, width, height), (0, 0, width - 1, height)
    else:
        ahead, behind = (0, 1, width, height), (0, 0, width, height - 1)
    return ImageChops.difference(grey.crop(ahead), grey.crop(behind))


def _part_means(image: Image.Image) -> list[float]:
    whole = image.convert("F")
    small = whole.reduce((-(-image.width // GRID), -(-image.height // GRID)))
    if small.size != (GRID, GRID):  # a few pixels do not part evenly
        small = whole.resize((GRID, GRID), Image.Resampling.BOX)
    return [float(value) for value in _floats(small)]


def _floats(image: Image.Image) -> "memoryview[float]":
    return memoryview(image.tobytes()).cast("f")


def blockiness(image: Image.Image) -> float | None:
    """Mean step across the borders of 8-pixel blocks over the mean step elsewhere, on the middle
    of the picture at its own size. None where there is too little to measure."""
    side = min(CROP, image.width // BLOCK * BLOCK, image.height // BLOCK * BLOCK)
    if side < 8 * BLOCK:
        return None
    left = (image.width - side) // 2 // BLOCK * BLOCK
    top = (image.height - side) // 2 // BLOCK * BLOCK
    grey = image.crop((left, top, left + side, top + side)).convert("L")
    columns = _steps(grey, horizontal=True).convert("F")
    rows = _steps(grey, horizontal=False).convert("F")
    across = list(_floats(columns.resize((side - 1, 1), Image.Resampling.BOX)))
    along = list(_floats(rows.resize((1, side - 1), Image.Resampling.BOX)))
    border = [step for steps in (across, along) for step in steps[BLOCK - 1 :: BLOCK]]
    inside = [
        step
        for steps in (across, along)
        for index, step in enumerate(steps)
        if index % BLOCK != BLOCK - 1
    ]
    inner = sum(inside) / len(inside)
    return sum(border) / len(border) / inner if inner > 0.1 else None


def percentiles(grey: Image.Image) -> tuple[int, int]:
    """The 1st and the 99th percentile of luminance."""
    counts = grey.histogram()
    total = sum(counts)
    return _percentile(counts, total * 0.01), _percentile(counts, total * 0.99)


def _percentile(counts: list[int], share: float) -> int:
    seen = 0
    for value, count in enumerate(counts):
        seen += count
        if seen >= share:
            return value
    return 255


def difference_hash(grey: Image.Image) -> str:
    """256 bits, hex: whether each of 16x16 cells is brighter than its right neighbour."""
    small = grey.resize((17, 16), Image.Resampling.BOX).tobytes()
    bits = 0
    for row in range(16):
        line = small[row * 17 : row * 17 + 17]
        for left, right in pairwise(line):
            bits = bits << 1 | (left > right)
    return f"{bits:064x}"


def mean_colors(image: Image.Image) -> str:
    """The mean colours of 4x4 parts, hex."""
    return image.convert("RGB").resize((4, 4), Image.Resampling.BOX).tobytes().hex()


def jpeg_quality(image: Image.Image) -> int | None:
    """The quality setting of the IJG encoder whose luminance table comes nearest.

    libjpeg scales its standard table by 5000/q below quality 50 and by 200 - 2q above it
    (`jpeg_quality_scaling` in jcparam.c); the mean of the standard table is 57.625.
    """
    tables: dict[int, list[int]] | None = getattr(image, "quantization", None)
    if not tables or 0 not in tables:
        return None
    scale = 100 * sum(tables[0]) / len(tables[0]) / 57.625
    quality = 5000 / scale if scale > 100 else (200 - scale) / 2
    return max(1, min(100, round(quality)))


def thumbnail(image: Image.Image, side: int) -> bytes:
    """A JPEG of at most `side` pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = BytesIO()
    small.save(out, "JPEG", quality=80)
    return out.getvalue()
