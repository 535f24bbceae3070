"""The contact sheet: every image with its caption, its cut and its problems, on one page.

One file with everything in it: no script, no request. Captions and names are escaped, and a
content policy forbids the page to fetch or run anything, whatever they hold.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tenner.core.errors import Level
from tenner.core.files import write_atomically
from tenner.core.messages import Message, msg
from tenner.dataset.check import CheckResult, headline
from tenner.dataset.findings import Finding, printable
from tenner.dataset.items import ImageItem
from tenner.ui.translation import TEXTS

LEVELS: Mapping[Level, Message] = {
    "error": msg("error"),
    "warning": msg("warning"),
    "note": msg("note"),
}
KINDS: Mapping[str, Message] = {
    "unreadable": msg("unreadable"),
    "blurred": msg("blurred"),
    "bright": msg("bright"),
    "compressed": msg("compressed"),
    "dark": msg("dark"),
    "near_duplicate": msg("near duplicate"),
    "duplicate": msg("duplicate"),
    "animated": msg("animated"),
    "cropped": msg("cropped"),
    "small": msg("small"),
    "no_bucket": msg("no bucket"),
    "unused_area": msg("unused area"),
    "mask": msg("mask"),
    "captions_missing": msg("captions missing"),
    "caption_long": msg("caption long"),
    "caption_lines": msg("caption lines"),
    "caption_encoding": msg("caption encoding"),
    "caption_unreadable": msg("caption unreadable"),
    "trigger_missing": msg("trigger missing"),
    "shared_caption": msg("shared caption"),
    "two_captions": msg("two captions"),
    "other_extension": msg("other extension"),
}
"""What is marked under a picture, by the kind of its finding; others are shown as they are."""

MAX_SHOWN = 1500
"""More would make a page of tens of megabytes; those with problems come first then."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One image on the sheet. The frame is in per cent of the picture, what is kept of it."""

    name: str
    caption: str
    thumb: str
    size: str
    bucket: str
    repeats: int
    is_reg: bool
    findings: tuple[Finding, ...]
    left: float
    top: float
    width: float
    height: float


def write_sheet(result: CheckResult, path: Path) -> None:
    """Write the page, atomically. Raises OSError."""
    write_atomically(path, render_sheet(result))


def render_sheet(result: CheckResult) -> str:
    """The page as HTML. The result must come from a check that wrote thumbnails."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("tenner.dataset").joinpath("sheet.html").read_text(encoding="utf-8")
    text: dict[str, Any] = {**TEXTS, "levels": LEVELS, "kinds": KINDS}
    images = list(result.images)
    if len(images) > MAX_SHOWN:
        images.sort(key=lambda image: not result.findings_of(image))
    return environment.from_string(source, globals=text).render(
        headline=headline(result),
        findings=result.findings,
        buckets=result.images_by_bucket(),
        cards=[_card(result, image) for image in images[:MAX_SHOWN]],
        not_shown=max(0, len(images) - MAX_SHOWN),
        left_out=[(printable(note.path), note.why) for note in result.left_out],
    )


def _card(result: CheckResult, image: ImageItem) -> Card:
    choice = result.bucket_of(image)
    thumb = result.thumbs.get(image.source_path)
    data = b64encode(thumb.read_bytes()).decode() if thumb and thumb.is_file() else ""
    left, top, width, height = 0.0, 0.0, 1.0, 1.0
    if choice:
        (across, down), (left_px, top_px) = choice.resized, choice.crop
        left, top = left_px / across, top_px / down
        width, height = choice.bucket[0] / across, choice.bucket[1] / down
    return Card(
        name=printable(image.source),
        caption=image.caption,
        thumb=data,
        size=f"{image.facts.width}×{image.facts.height}",
        bucket=f"{choice.bucket[0]}×{choice.bucket[1]}" if choice else "",
        repeats=image.num_repeats,
        is_reg=image.is_reg,
        findings=tuple(each for each in result.findings_of(image) if each.level != "note"),
        left=100 * left,
        top=100 * top,
        width=100 * width,
        height=100 * height,
    )
