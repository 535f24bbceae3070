"""One image file, decoded in full: its facts, or why it cannot be used; and its clean copy.

Runs in worker processes. Only formats that are pictures are opened (never EPS, which would start
Ghostscript), with bounds on bytes and pixels, so that no file takes the machine with it.
"""

import contextlib
import hashlib
import warnings
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from PIL import Image

from tenner.core.messages import msg
from tenner.core.temporary_files import part_of
from tenner.dataset import measure
from tenner.dataset.facts import ImageFacts, Unreadable
from tenner.dataset.pixels import (
    foreign_profile,
    is_transparent,
    orientation_of,
    over_color,
    to_8_bit,
    to_srgb,
    upright,
    viewable,
)

READ_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "PPM", "TGA",
           "JPEG2000")  # fmt: skip
_PLUGINS = ("Jpeg", "Png", "WebP", "Bmp", "Gif", "Tiff", "Avif", "Ppm", "Tga", "Jpeg2K")
"""Pillow's modules that read them: `Image.init` would take all fifty, and twice the time."""
TRAINER_FORMATS = frozenset({"JPEG", "MPO", "PNG", "WEBP", "BMP"})
MAX_BYTES = 512 * 1024**2
MAX_PIXELS = 1024**3 // 4 // 3
"""Pillow's own bound for what may be a decompression bomb: 89 million pixels."""
BIG_PIXELS = 24_000_000
"""Above this, one image at a time: eight bytes a pixel in several workers is a gigabyte."""
MIN_SIDE = 8
"""The VAE makes one latent of 8x8 pixels; a smaller file is a tracking pixel, not a picture."""
HEAD_BYTES = 512
"""Of a file, enough to see that it is no picture."""
ZEROS_AT_LEAST = 512
"""Zeros at a JPEG's end from which on it counts as cut off: a sector of a disk."""

warnings.simplefilter("ignore")  # nobody reads a worker's stderr; what matters is in the facts
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class TooBig(Exception):
    """The image needs all of the memory: inspect it again with `alone`, no other at the same
    time."""


@cache
def register_heif() -> bool:
    """Let Pillow read HEIC where pillow-heif is installed. Called when the first one is met."""
    try:
        import pillow_heif  # pyright: ignore
    except ImportError:
        return False
    pillow_heif.register_heif_opener()  # pyright: ignore
    return True


for _name in _PLUGINS:
    with contextlib.suppress(ImportError):  # an older Pillow has no AVIF
        import_module(f"PIL.{_name}ImagePlugin")
FORMATS = tuple(name for name in READ_FORMATS if name in Image.OPEN)
"""What this Pillow opens of them; AVIF depends on how it was built. MPO comes with JPEG."""


def inspect(
    path: Path, *, training_area: int, alone: bool, thumb: Path | None = None, thumb_side: int = 256
) -> ImageFacts | Unreadable:
    """Read and decode one file whole. Raises TooBig unless `alone`.

    Every coefficient of a JPEG is decoded, but its pixels are computed at no more than is measured
    (`Image.draft`): what is cut or damaged is found just as well.
    """
    try:
        data = _read(path)
        image = _open(data, alone=alone)
        size = image.size
        factor = measure.shrink_factor(*size, training_area)
        _draft(image, factor)
        image.load()
        return _facts(image, size, factor, data, thumb, thumb_side)
    except TooBig:
        raise
    except UnusableImage as error:
        return Unreadable(reason=str(error))
    except Exception as error:  # noqa: BLE001  Pillow's decoders raise errors of any kind
        return Unreadable(reason=why_broken(error))


class UnusableImage(Exception):
    """A file that is not even tried, or is no picture."""


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if 0 < size <= MAX_BYTES else b""
    except OSError as error:
        raise UnusableImage(closed_words(error)) from None
    check_head(data[:HEAD_BYTES], size)
    check_tail(data)
    return data


def closed_words(error: OSError) -> str:
    """Why a file could not be read."""
    return msg("closed to this user or gone ({strerror})", strerror=error.strerror or error)


def check_head(head: bytes, num_bytes: int) -> None:
    """Raises UnusableImage for a file that is not even tried, by its size and first bytes."""
    if num_bytes == 0:
        raise UnusableImage(msg("empty (0 bytes)"))
    if num_bytes > MAX_BYTES:
        raise UnusableImage(msg("larger than {max_bytes} MB", max_bytes=MAX_BYTES // 1024**2))
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        raise UnusableImage(msg("a git-lfs pointer, not the picture (run: git lfs pull)"))
    if text.startswith((b"<!doctype html", b"<html")):
        raise UnusableImage(msg("a web page, not a picture"))
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1") and not register_heif():
        raise UnusableImage(msg("HEIC, which needs: pip install 'tenner[dataset]'"))


def check_tail(data: bytes) -> None:
    """Raises UnusableImage for a JPEG whose end is missing, which libjpeg does not report."""
    if _ends_in_zeros(data):
        raise UnusableImage(msg("cut off: its end is only zeros, as a failed copy leaves it"))


def _ends_in_zeros(data: bytes) -> bool:
    """Whether a JPEG ends in zeros without its end marker, which libjpeg decodes as grey."""
    if data[:3] != b"\xff\xd8\xff":
        return False
    content = data.rstrip(b"\0")
    return len(data) - len(content) >= ZEROS_AT_LEAST and not content.endswith(b"\xff\xd9")


def _open(data: bytes, *, alone: bool) -> Image.Image:
    return open_picture(BytesIO(data), data[:HEAD_BYTES], alone=alone)


def open_picture(file: IO[bytes], head: bytes, *, alone: bool) -> Image.Image:
    """The picture in `file`, which begins with `head`; not decoded yet. Raises UnusableImage, and
    TooBig unless `alone`."""
    is_heif = head[4:8] == b"ftyp" and head[8:12] not in (b"avif", b"avis") and register_heif()
    try:
        image = Image.open(file, formats=(*FORMATS, "HEIF") if is_heif else FORMATS)
    except Image.DecompressionBombError:
        raise UnusableImage(
            msg("larger than {max_pixels} million pixels", max_pixels=MAX_PIXELS // 10**6)
        ) from None
    except Image.UnidentifiedImageError:
        raise UnusableImage(msg("no image format that is known, or cut off at its start")) from None
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise UnusableImage(
            msg("larger than {max_pixels} million pixels", max_pixels=MAX_PIXELS // 10**6)
        )
    if min(image.size) < MIN_SIDE:
        raise UnusableImage(
            msg("only {width}x{height} pixels", width=image.width, height=image.height)
        )
    if pixels > BIG_PIXELS and not alone:
        raise TooBig
    return image


def why_broken(error: Exception) -> str:
    """What is wrong with a picture that raised `error`."""
    text = str(error).lower()
    if "truncated" in text or "not processed" in text or "end of file" in text:
        return msg("cut off: the end of the picture is missing")
    return msg("damaged: it cannot be decoded")


def _draft(image: Image.Image, factor: int) -> None:
    """Let libjpeg shrink while it decodes, by the largest power of two within `factor`."""
    if image.format in ("JPEG", "MPO"):
        scale = next((each for each in (8, 4, 2) if each <= factor), 1)
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))  # pyright: ignore[reportArgumentType]


def _shrunk(image: Image.Image, size: tuple[int, int], factor: int) -> Image.Image:
    """The decoded picture, of `size` in its file, shrunk by `factor` in all."""
    target = (-(-size[0] // factor), -(-size[1] // factor))
    if image.size == target:
        return image
    if image.size == size:
        return image.reduce(factor)
    return image.resize(target, Image.Resampling.BOX)


def _facts(
    image: Image.Image,
    size: tuple[int, int],
    factor: int,
    data: bytes,
    thumb: Path | None,
    thumb_side: int,
) -> ImageFacts:
    orientation = orientation_of(image)
    frames = int(getattr(image, "n_frames", 1))
    small = upright(_shrunk(viewable(image), size, factor), orientation)
    grey = small.convert("L")
    darkest, brightest = measure.percentiles(grey)
    if thumb is not None:
        thumb.write_bytes(measure.thumbnail(small, thumb_side))
    width, height = size
    if orientation >= 5:
        width, height = height, width
    return ImageFacts(
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        format=image.format or "",
        mode=image.mode,
        width=width,
        height=height,
        needs=_needs(image, orientation, frames),
        num_frames=frames,
        blur=measure.blur(grey),
        jpeg_quality=measure.jpeg_quality(image) if factor == 1 else None,
        blockiness=measure.blockiness(image) if factor == 1 else None,
        darkest=darkest,
        brightest=brightest,
        dhash=measure.difference_hash(grey),
        colors=measure.mean_colors(small),
    )


def _needs(image: Image.Image, orientation: int, frames: int) -> tuple[str, ...]:
    needs: list[str] = []
    if orientation != 1:
        needs.append("upright")
    if is_transparent(image):
        needs.append("alpha")
    if image.mode.startswith("I") or image.mode == "F":
        needs.append("16-bit")
    if image.mode in ("CMYK", "YCCK", "LAB"):
        needs.append("cmyk")
    elif image.mode in ("RGB", "RGBA", "P") and foreign_profile(image) is not None:
        needs.append("profile")
    if image.format not in TRAINER_FORMATS:
        needs.append("format")
    if frames > 1 and image.format != "MPO":
        needs.append("frames")
    return tuple(needs)


def viewable_picture(path: Path) -> Image.Image | str:
    """The picture of a file as a human sees it, upright and in 8-bit RGB, or why there is none."""
    try:
        image = _open(_read(path), alone=True)
        image.load()
        shown = to_srgb(image) if foreign_profile(image) is not None else viewable(image)
        return upright(viewable(shown), orientation_of(image)).convert("RGB")
    except UnusableImage as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  Pillow's decoders raise errors of any kind
        return why_broken(error)


def _masked(image: Image.Image, mask: Path) -> Image.Image:
    """The upright picture with the mask as its alpha. Raises UnusableImage."""
    seen = viewable_picture(mask)
    if isinstance(seen, str):
        raise UnusableImage(msg("its mask {name} is {seen}", name=mask.name, seen=seen))
    alpha = seen.getchannel("R").resize(image.size, Image.Resampling.BILINEAR)
    masked = image.convert("RGB")
    masked.putalpha(alpha)
    return masked


def convert(
    path: Path,
    target: Path,
    *,
    needs: tuple[str, ...],
    alpha_color: str,
    keep_alpha: bool,
    mask: Path | None = None,
) -> dict[str, Any]:
    """Write the clean PNG of `path` to `target`, atomically; returns its size.

    The red channel of `mask`, resized to the image, becomes its alpha. Raises OSError where
    it cannot be written, UnusableImage where the mask cannot be read; the image was read before.
    """
    image = _open(_read(path), alone=True)
    image.load()
    if "16-bit" in needs:
        clean = to_8_bit(image)
    elif "cmyk" in needs or "profile" in needs:
        clean = to_srgb(image)
    else:
        clean = image
    if "alpha" in needs:
        keeps_alpha = keep_alpha and mask is None
        clean = clean.convert("RGBA") if keeps_alpha else over_color(clean, alpha_color)
    clean = upright(clean, orientation_of(image))
    if mask is not None:
        clean = _masked(clean, mask)
    if clean.mode not in ("RGB", "RGBA", "L"):
        clean = clean.convert("RGB")
    part = part_of(target)
    bare = Image.frombytes(clean.mode, clean.size, clean.tobytes())  # no EXIF, no profile
    bare.save(part, "PNG", compress_level=1)
    part.replace(target)
    return {"width": bare.width, "height": bare.height}
