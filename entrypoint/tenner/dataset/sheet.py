"""The contact sheet: every image with its caption, its cut and its problems, on one page.

One file with everything in it, and no request. Captions and names are escaped, and a content policy
forbids the page to fetch anything, or to run more than its own script, whatever they hold. Pictures
that are alike stand together; what was found can be filtered by style alone.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
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
from tenner.dataset.likeness import alike_groups
from tenner.ui.translation import TEXTS
from tenner.ui.web_page import content_policy, page_script, page_style

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


DOUBLES = frozenset({"duplicate", "near_duplicate"})
CAPTION_KINDS = frozenset(
    {
        "captions_missing",
        "caption_long",
        "caption_lines",
        "caption_encoding",
        "caption_unreadable",
        "trigger_missing",
        "shared_caption",
        "two_captions",
        "other_extension",
    }
)
"""Findings about words: they stand under a picture, and do not frame it."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One image on the sheet. The frame is in per cent of the picture, the part that is trained.

    `is_marked`: whether something is wrong with the very picture that is not so with most.
    """

    number: int
    source: str
    name: str
    caption: str
    thumb: str
    size: str
    bucket: str
    repeats: int
    is_reg: bool
    findings: tuple[Finding, ...]
    is_marked: bool
    left: float
    top: float
    width: float
    height: float

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.kind for each in self.findings))

    @property
    def is_broken(self) -> bool:
        return any(each.level == "error" for each in self.findings)

    @property
    def is_cut(self) -> bool:
        return self.width < 99.5 or self.height < 99.5


def write_sheet(result: CheckResult, path: Path) -> None:
    """Write the page, atomically. Raises OSError."""
    write_atomically(path, render_sheet(result))


def render_sheet(result: CheckResult) -> str:
    """The page as HTML. The result must come from a check that wrote thumbnails."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text: dict[str, Any] = {
        **TEXTS,
        "levels": LEVELS,
        "kinds": KINDS,
        "caption_kinds": CAPTION_KINDS,
    }
    images = list(result.images)
    if len(images) > MAX_SHOWN:
        images.sort(key=lambda image: not result.findings_of(image))
    common = _common_kinds(result)
    cards = [
        _card(result, image, number, common) for number, image in enumerate(images[:MAX_SHOWN])
    ]
    groups = _groups(result, cards)
    grouped = {card.number for group in groups for card in group}
    filters = _filters(cards)
    style = (
        page_style() + _packaged_text("sheet.css") + _rules(cards, [kind for kind, _ in filters])
    )
    return environment.from_string(_packaged_text("sheet.html"), globals=text).render(
        headline=headline(result),
        findings=result.findings,
        buckets=result.images_by_bucket(),
        groups=groups,
        cards=[card for card in cards if card.number not in grouped],
        num_cards=len(cards),
        filters=filters,
        not_shown=max(0, len(images) - MAX_SHOWN),
        left_out=[(printable(note.path), note.why) for note in result.left_out],
        style=Markup(style),
        script=Markup(page_script()),
        policy=content_policy(style),
    )


def _common_kinds(result: CheckResult) -> frozenset[str]:
    """What was found of more than half of the images: it marks none of them out."""
    half = len(result.images) / 2
    sources = {image.source for image in result.images}
    return frozenset(
        each.kind for each in result.findings if len(sources.intersection(each.files)) > half
    )


def _groups(result: CheckResult, cards: Sequence[Card]) -> list[list[Card]]:
    """The cards of pictures that are the same or nearly the same, group by group."""
    doubled = {card.source for card in cards if DOUBLES.intersection(card.kinds)}
    facts = {image.source: image.facts for image in result.images if image.source in doubled}
    by_source = {card.source: card for card in cards}
    return [[by_source[each] for each in group] for group in alike_groups(facts)]


def _filters(cards: Sequence[Card]) -> list[tuple[str, int]]:
    """What can be shown alone, by the kind of its finding, the rarest first, and how many."""
    counts = Counter(kind for card in cards for kind in card.kinds)
    kinds = sorted(counts.items(), key=lambda each: each[1])
    clean = sum(not card.kinds for card in cards)
    return [*kinds, *([("clean", clean)] if kinds and clean else [])]


def _rules(cards: Sequence[Card], kinds: Sequence[str]) -> str:
    """The style of this very page: where each picture is cut, and what each filter hides."""
    cuts = [
        f"#cut-{card.number} {{ left: {card.left:.2f}%; top: {card.top:.2f}%;"
        f" width: {card.width:.2f}%; height: {card.height:.2f}%; }}"
        for card in cards
        if card.thumb and card.is_cut
    ]
    hides = [
        f"main:has(#f-{kind}:checked) :is(.card:not(.k-{kind}), .group:not(:has(.k-{kind})))"
        " { display: none; }"
        for kind in kinds
    ]
    return "\n".join([*cuts, *hides, ""])


def _card(result: CheckResult, image: ImageItem, number: int, common: frozenset[str]) -> Card:
    choice = result.bucket_of(image)
    thumb = result.thumbs.get(image.source_path)
    data = b64encode(thumb.read_bytes()).decode() if thumb and thumb.is_file() else ""
    left, top, width, height = 0.0, 0.0, 1.0, 1.0
    if choice:
        (across, down), (left_px, top_px) = choice.resized, choice.crop
        left, top = left_px / across, top_px / down
        width, height = choice.bucket[0] / across, choice.bucket[1] / down
    findings = tuple(each for each in result.findings_of(image) if each.level != "note")
    return Card(
        number=number,
        source=image.source,
        name=printable(image.source),
        caption=image.caption,
        thumb=data,
        size=f"{image.facts.width}×{image.facts.height}",
        bucket=f"{choice.bucket[0]}×{choice.bucket[1]}" if choice else "",
        repeats=image.num_repeats,
        is_reg=image.is_reg,
        findings=findings,
        is_marked=any(each.kind not in CAPTION_KINDS | common for each in findings),
        left=100 * left,
        top=100 * top,
        width=100 * width,
        height=100 * height,
    )


def _packaged_text(name: str) -> str:
    return files("tenner.dataset").joinpath(name).read_text(encoding="utf-8")
