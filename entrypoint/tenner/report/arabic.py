"""What the program says, in Arabic: reasons, warnings, and what can go wrong once a page is there.

A sentence has one source, the place that says it, and the terminal and the log show it as it is.
`arabic.json` holds its Arabic under its English, with a name for each value: here the English is
recognised by its words, and its values are carried over. So pages of older logs are translated
too. A value that is a sentence itself is translated with it; `{n}`, `{n2}` are numbers, `{usd}`
dollars.
"""

import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.resources import files

from markupsafe import Markup

_LONGEST = 1000
"""Letters of a text that is looked up: longer ones are a program's own output."""
_PLACE = re.compile(r"((?:s3|hf|file|https?)://\S+): (.+)")
"""A destination, and what is said of it."""
_VALUES = {"n": r"[+-]?[\d.,]+(?:e[+-]?\d+)?", "usd": r"\$[\d.,]+"}
_CODE = re.compile(
    r"""[A-Za-z_]\w* = ["']?(?:\{\w+\}|[\w.]+)["']?|hf://\{repo\}\?public|"\{n\}_\{folder\}"|--\w[\w=-]*"""
)
"""What is written as a program reads it: from left to right in Arabic too."""
_RIGHT_TO_LEFT = re.compile(r"[\u0590-\u08ff]")


@cache
def sentences() -> Mapping[str, str]:
    """The Arabic of each English template."""
    return json.loads(files("tenner.report").joinpath("arabic.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=2048)
def in_arabic(text: str) -> Markup | None:
    """`text` in Arabic, its values kept apart from the direction around them; None where it is not
    known. What follows a first line, and parts between semicolons, are told as they are known."""
    first, line_end, rest = text.partition("\n")
    if line_end:
        known = in_arabic(first)
        return None if known is None else known + Markup("<br>") + _value(rest.strip())
    if len(text) > _LONGEST:
        return None
    template, known = _whole(text)
    if "; " in text and "; " not in template:
        parts = [in_arabic(part) for part in text.split("; ")]
        told = [part for part in parts if part is not None]
        known = Markup("؛ ").join(told) if len(told) == len(parts) else known
    if known is None and (place := _PLACE.fullmatch(text)):
        rest = in_arabic(place[2])
        return rest and Markup('<bdi dir="ltr">{}</bdi>: ').format(place[1]) + rest
    return known


def _whole(text: str) -> tuple[str, Markup | None]:
    """The template that the text fills, and its Arabic."""
    for english, pattern, arabic in _patterns():
        if found := pattern.fullmatch(text):
            values = {name: _value(value) for name, value in found.groupdict().items()}
            return english, Markup(arabic).format(**values)
    return "", None


def _value(text: str) -> Markup:
    known = in_arabic(text)
    if known is not None:
        return known
    direction = "" if _RIGHT_TO_LEFT.search(text) else ' dir="ltr"'
    return Markup("<bdi{}>{}</bdi>").format(Markup(direction), text)


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str], str], ...]:
    """Each template as a pattern, those with most words of their own first."""
    found = sorted(sentences().items(), key=lambda each: -len(re.sub(r"\{\w+\}", "", each[0])))
    return tuple(
        (english, _pattern(english), _CODE.sub(r'<bdi dir="ltr">\g<0></bdi>', arabic))
        for english, arabic in found
    )


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    seen: set[str] = set()
    pattern = ""
    for place, part in enumerate(parts):
        if place % 2 == 0:
            pattern += re.escape(part)
        elif part in seen:
            pattern += f"(?P={part})"
        else:
            seen.add(part)
            value = _VALUES.get(part.rstrip("0123456789"), r".+?")
            pattern += f"(?P<{part}>{value})"
    return re.compile(pattern)
