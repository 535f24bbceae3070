"""Pixels as a viewer shows them: turned upright, opaque, in 8-bit sRGB.

Works on opened Pillow images; runs in worker processes.
"""

from collections.abc import Callable
from io import BytesIO

from PIL import Image, ImageCms

ORIENTATION = 0x0112
"""The EXIF tag."""


def orientation_of(
    image: Image.Image, *, read: Callable[[Image.Image], Image.Exif] | None = None
) -> int:
    """EXIF's number for how the picture is to be turned, 1 to 8; `read` gives the EXIF data."""
    try:
        value = (read(image) if read else image.getexif()).get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001  broken EXIF is no reason to refuse the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture turned as its EXIF orientation, 1 to 8, demands."""
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    if "A" in image.getbands():
        lowest = image.getchannel("A").getextrema()[0]
        return isinstance(lowest, (int, float)) and lowest < 255
    return "transparency" in image.info


def foreign_profile(image: Image.Image) -> "ImageCms.ImageCmsProfile | None":
    """The embedded colour profile, where it is a readable one and not sRGB."""
    data = image.info.get("icc_profile")
    if not isinstance(data, bytes) or not data:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        name = ImageCms.getProfileDescription(profile)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if "srgb" in name.lower().replace(" ", "") else profile


def viewable(image: Image.Image) -> Image.Image:
    """A mode that can be shrunk and measured: RGB, RGBA or L."""
    if image.mode in ("RGB", "L"):
        return image
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return over_color(image, "#ffffff")
    if image.mode.startswith("I") or image.mode == "F":
        return to_8_bit(image)
    return image.convert("RGB")


def to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or float, as 8-bit grey: by the format's range, else by its own."""
    lowest, highest = (float(value) for value in image.getextrema())  # pyright: ignore
    if image.mode != "F" and lowest >= 0 and highest <= 255:
        return image.convert("L")
    bottom, top = (0.0, 65535.0) if lowest >= 0 and 1 < highest <= 65535 else (lowest, highest)
    scale = 255.0 / (top - bottom) if top > bottom else 0.0
    return image.convert("F").point(lambda value: value * scale - bottom * scale).convert("L")


def over_color(image: Image.Image, color: str) -> Image.Image:
    """The picture composited on a colour."""
    layer = image.convert("RGBA")
    ground = Image.new("RGBA", layer.size, color)
    ground.alpha_composite(layer)
    return ground.convert("RGB")


def to_srgb(image: Image.Image) -> Image.Image:
    """8-bit sRGB through the embedded profile, or by the plain formula where there is none."""
    profile = foreign_profile(image)
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    if profile is not None:
        try:
            source = image.convert("RGB") if image.mode == "P" else image
            srgb = ImageCms.createProfile("sRGB")  # pyright: ignore
            converted = ImageCms.profileToProfile(source, profile, srgb, outputMode=mode)  # pyright: ignore
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None
        if converted is not None:
            return converted
    return image.convert(mode)
