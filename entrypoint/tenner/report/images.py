"""Makes pictures small enough to be stored inside the page.

Pictures of up to `PIXEL_ART` pixels stay PNG and are enlarged by the browser with hard edges;
larger ones become WebP. All pictures of a page share `BUDGET_BYTES`: where they do not fit, all
are made smaller together, so that they stay comparable.
"""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

BUDGET_BYTES = 1_900_000  # before base64, which adds a third: the page stays under 3 MB
PIXEL_ART = 96
MAX_PIXELS = 16_384 * 16_384
# (longest side, WebP quality), best first
SIZES = ((448, 82), (384, 80), (320, 76), (256, 72), (192, 66), (128, 60), (96, 50))


@dataclass(frozen=True, kw_only=True)
class Inlined:
    """A picture as a data URI, with the size it is stored at."""

    uri: str
    width: int
    height: int
    hard_pixels: bool


class PictureStore:
    """Pictures made small, cached by path, time and size for the next page, since a page is written
    many times in a run."""

    def __init__(self) -> None:
        self._cache: dict[tuple[Path, int, int], tuple[bytes, str, int, int] | None] = {}

    def inline_all(
        self, paths: Sequence[Path], *, budget_bytes: int = BUDGET_BYTES
    ) -> dict[Path, Inlined]:
        """Every readable picture of `paths`, once; unreadable ones are left out."""
        counts = Counter(paths)
        found: dict[Path, tuple[bytes, str, int, int]] = {}
        opened: dict[Path, Image.Image | None] = {}
        for side, quality in SIZES:
            made = {path: self._made(path, side, quality, opened) for path in counts}
            found = {path: small for path, small in made.items() if small}
            if sum(len(small[0]) * counts[path] for path, small in found.items()) <= budget_bytes:
                break
        return {
            path: Inlined(
                uri=f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}",
                width=width,
                height=height,
                hard_pixels=max(width, height) <= PIXEL_ART and kind == "image/png",
            )
            for path, (data, kind, width, height) in found.items()
        }

    def _made(
        self, path: Path, side: int, quality: int, opened: dict[Path, Image.Image | None]
    ) -> tuple[bytes, str, int, int] | None:
        try:
            key = (path, path.stat().st_mtime_ns, side)
        except OSError:
            return None
        if key not in self._cache:
            image = opened[path] if path in opened else opened.setdefault(path, _open(path))
            self._cache[key] = _encode(image, side, quality) if image else None
        return self._cache[key]


def _open(path: Path) -> Image.Image | None:
    """The picture upright, in RGB, no larger than the page can use; None where it is none."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            image.draft("RGB", (SIZES[0][0], SIZES[0][0]))
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail((SIZES[0][0], SIZES[0][0]), Image.Resampling.LANCZOS)
            return upright.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _encode(image: Image.Image, side: int, quality: int) -> tuple[bytes, str, int, int]:
    out = io.BytesIO()
    if max(image.size) <= PIXEL_ART:
        image.save(out, "PNG", optimize=True)
        return out.getvalue(), "image/png", *image.size
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.save(out, "WEBP", quality=quality, method=4)
    return out.getvalue(), "image/webp", *small.size
