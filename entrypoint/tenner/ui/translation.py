"""A page's texts in each of its languages: the English of the program, and what `locale/` has.

A catalogue is a `.po` file, which any gettext editor opens; it is read when a page is drawn first.
Text is English where a catalogue does not know it: messages of other programs and servers, and
those in logs of other versions.
"""

import io
import re
from collections.abc import Callable
from functools import cache, lru_cache
from gettext import GNUTranslations, NullTranslations
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

from tenner.core.messages import Message, has_id, msg

LANGUAGES = ("en", "ar")
_LEFT_TO_RIGHT = re.compile(
    r"""[A-Za-z_]\w* = ["']?(?:\{\w+\}|[\w.]+(?:-\d+)?)["']?"""  # a setting with its value
    r"""|hf://\{\w+\}\?public|"\{\w+\}_\{\w+\}"|--\w[\w=-]*"""
    r"|[\d.$]*\{\w+\}(?:[×/–][\d.]*\{\w+\})+"  # 3/4, 512×512
    r"|\$\{\w+\}|1/\{\w+\}"
    r"|\{\w+\}\s?(?:[kMG]B|[MG]iB|px|%|°C)(?!\w)"
)
"""What is read from left to right in Arabic too: code, and numbers with their units."""
_ARABIC = re.compile(r"[\u0590-\u08ff]")
_MARKS = {"en": {}, "ar": str.maketrans({",": "،", ";": "؛"})}
_WORD = re.compile(r"[^\W\d_]")


SYSTEM_ERRORS = frozenset(
    (
        msg("No space left on device"),
        msg("Disk quota exceeded"),
        msg("Read-only file system"),
        msg("Input/output error"),
        msg("Permission denied"),
        msg("Operation not permitted"),
        msg("No such file or directory"),
        msg("File exists"),
        msg("Not a directory"),
        msg("Is a directory"),
        msg("File name too long"),
        msg("Too many open files"),
        msg("Cannot allocate memory"),
        msg("Connection refused"),
        msg("Connection reset by peer"),
        msg("Connection timed out"),
        msg("Network is unreachable"),
        msg("No route to host"),
        msg("Address already in use"),
        msg("Broken pipe"),
        msg("Stale file handle"),
        msg("Transport endpoint is not connected"),
    )
)
"""The texts of the system's errors in glibc, which other texts give as a reason."""


class _Untranslated(NullTranslations):
    """The fallback of a catalogue: every text is unknown, which an empty translation means here.
    (gettext's own fallback returns the English, which would hide that.)"""

    def gettext(self, message: str) -> str:
        return ""

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        return ""


@cache
def catalogue(language: str) -> NullTranslations:
    """The translations into `language`; those of an unknown text are empty."""
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    path = files("tenner").joinpath("locale", language, "LC_MESSAGES", "tenner.po")
    compiled = io.BytesIO()
    with path.open("rb") as file:
        write_mo(compiled, read_po(file, locale=language))
    compiled.seek(0)
    found = GNUTranslations(compiled)
    found.add_fallback(_Untranslated())
    return found


def translated(text: str, language: str) -> Markup | None:
    """`text` in `language`, its values isolated from the direction of the text around them
    (`<bdi>`); None where it is not in the catalogue."""
    template = _template(text, language)
    if not template:
        return None
    if not has_id(text):
        return _marked(template)
    values = {name: _value(value, language) for name, value in text.values.items()}
    return _marked(template).format(**values)


def _template(text: str, language: str) -> str:
    """The translation of a text, its {names} not filled yet; empty where there is none."""
    if not has_id(text):
        return catalogue(language).gettext(text) if text and "{" not in text else ""
    if text.many:
        found = catalogue(language).ngettext(text.msgid, text.many, text.number or 0)
    else:
        found = catalogue(language).gettext(text.msgid)
    return found or (text.msgid.translate(_MARKS[language]) if _has_only_values(text.msgid) else "")


def _has_only_values(template: str) -> bool:
    """Whether a template holds no words, only values and punctuation between them."""
    return not _WORD.search(re.sub(r"\{\w*\}", "", template))


def _value(text: str, language: str) -> Markup:
    is_ours = has_id(text) or text in SYSTEM_ERRORS  # not a name or a caption
    known = translated(text, language) if is_ours else None
    if known is not None:
        return known
    direction = "" if _ARABIC.search(text) else ' dir="ltr"'
    return Markup("<bdi{}>{}</bdi>").format(Markup(direction), text)


@lru_cache(maxsize=4096)
def _marked(template: str) -> Markup:
    """A template with `<bdi>` around what is read from left to right in any language."""
    parts: list[str] = []
    end = 0
    for found in _LEFT_TO_RIGHT.finditer(template):
        parts += [str(escape(template[end : found.start()]))]
        parts += [f'<bdi dir="ltr">{escape(found[0])}</bdi>']
        end = found.end()
    parts.append(str(escape(template[end:])))
    return Markup("".join(parts).replace("\n", "<br>"))


def in_both_languages(text: str) -> Markup:
    """One of the program's messages, in both languages where the catalogue has its translation."""
    known = translated(text, "ar")
    if known is None:
        return Markup("<bdi>{}</bdi>").format(text)
    return Markup(
        '<span class="t" lang="en"><bdi>{}</bdi></span><span class="t" lang="ar">{}</span>'
    ).format(text, known)


def label(text: str, /, **values: object) -> Markup:
    """A text of the page itself in both languages, one of which the page shows. It may hold HTML.

    Values are escaped, and isolated from the direction of the words around them.
    """
    message = text if has_id(text) else Message(text, values)
    return _label(message, lambda each: catalogue(each).gettext(message.msgid) or message.msgid)


def counted_label(one: str, many: str, number: int, /, **values: object) -> Markup:
    """The same of a text that depends on a number, which is its {n}."""
    message = Message(one, {"n": f"{number:,}", **values}, many, number)
    english = one if number == 1 else many
    return _label(message, lambda each: catalogue(each).ngettext(one, many, number) or english)


def _label(message: Message, template: Callable[[str], str]) -> Markup:
    values = {
        name: Markup("<bdi{}>{}</bdi>").format(_direction(value), value)
        for name, value in message.values.items()
    }
    english = message.many if message.many and message.number != 1 else message.msgid
    templates = {"en": english, "ar": template("ar")}
    return Markup("").join(
        Markup('<span class="t" lang="{}">{}</span>').format(
            language, Markup(templates[language]).format(**values)
        )
        for language in LANGUAGES
    )


def plain_label(text: str, language: str) -> str:
    """A text of the page in one language, without markup, for an attribute."""
    return text if language == "en" else catalogue(language).gettext(text) or text


TEXTS: dict[str, Any] = {
    "t": label,
    "tn": counted_label,
    "translate": in_both_languages,
    "plain": plain_label,
}
"""Functions that templates call to show a text."""


def _direction(text: str) -> Markup:
    """Numbers have no direction of their own: `-23 %` is to read so in Arabic too."""
    return Markup("") if any(map(str.isalpha, text)) else Markup(' dir="ltr"')
