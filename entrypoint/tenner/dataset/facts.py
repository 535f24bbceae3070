"""What one image is, as measured from its pixels: the plain facts that are judged later."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from tenner.core.messages import message_of


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Facts of one decoded image. Sizes in pixels, upright; the units of the rest are in their
    names.

    `needs`: what must be corrected before a trainer reads it as a human sees it: `upright`,
    `alpha`, `16-bit`, `cmyk`, `profile`, `format`, `frames`. `blur`: 0 sharp to 1 blurred, of the
    sharpest part, at about the training size; None where nothing in the picture has an edge to
    measure. `jpeg_quality`: 1 to 100 by its quantisation table; None where the file is no JPEG.
    `blockiness`: how much stronger steps are on the 8-pixel grid than off it, 1.0 = none.
    `darkest`, `brightest`: the 1st and 99th percentile of luminance, 0 to 255. `dhash`: 256-bit
    difference hash, hex. `colors`: 4x4 mean colours, hex.
    """

    sha256: str
    num_bytes: int
    format: str
    mode: str
    width: int
    height: int
    needs: tuple[str, ...] = ()
    num_frames: int = 1
    blur: float | None = None
    jpeg_quality: int | None = None
    blockiness: float | None = None
    darkest: int = 0
    brightest: int = 255
    dhash: str = ""
    colors: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image that cannot be used. `reason` continues "… is"."""

    reason: str


def facts_from_json(found: dict[str, Any]) -> ImageFacts | Unreadable:
    """The reply of a worker, as facts."""
    if "sha256" not in found:
        reason = str(found.get("unreadable") or found.get("failed"))
        return Unreadable(reason=message_of(found.get("message"), reason))
    known = {each.name for each in fields(ImageFacts)}
    values: dict[str, Any] = {name: value for name, value in found.items() if name in known}
    values["needs"] = tuple(values["needs"])
    return ImageFacts(**values)
