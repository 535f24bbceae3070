"""Tags or sentences: how captions should read, by the base that they will train."""

import re
from typing import Literal

CaptionStyle = Literal["tags", "sentences"]

_TAGGED = re.compile(
    r"illustrious|noob|pony|animagine|anime|danbooru|booru|waifu|hentai|manga|hassaku"
    r"|(?<![a-z])(wai|nai|ilxl|kohaku|counterfeit|anything)(?![a-z])"
)
"""Bases that learnt Danbooru's tags, by what is in their names."""


def caption_style(base: str) -> CaptionStyle:
    """Tags for bases that learnt from tagged drawings, sentences for every other.

    `base` is a short name, an id on the Hub, an address or a path: the parts of a path above the
    last two are the user's own and are not read.
    """
    parts = base.replace("\\", "/").rstrip("/").lower().split("/")
    return (
        "tags"
        if _TAGGED.search("/".join(parts[-2:] if len(parts) > 1 else parts))
        else ("sentences")
    )


def without_words(text: str, words: tuple[str, ...]) -> str:
    """A sentence without words or phrases, in any case, and without what they leave behind."""
    for word in words:
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+([,.;:!?])", r"\1", text)
    text = re.sub(r"([,;:])(?:\s*[,;:])+", r"\1", text)
    return " ".join(text.split()).strip(" ,;:")
