"""The text of a caption file: bytes of any encoding to one clean line. Pure.

UTF-8 first, for that is what trainers read. Then what a byte order mark or NUL bytes prove.
Then the legacy encodings, where the bytes are a guess that is reported with the text as it was
read.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tenner.core.messages import msg

MAX_CAPTION_BYTES = 1_000_000
"""A larger file is not a caption."""

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_EAST_ASIAN = ("cp932", "gb18030", "euc-kr", "big5")
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u2060\u00ad\ufffe"))


class CaptionUnreadable(ValueError):
    """The bytes are no text in any encoding. `offset` is the first bad byte."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.offset = offset


@dataclass(frozen=True, kw_only=True)
class CaptionText:
    """A caption as read. `guessed` names the encoding where it was none that is certain."""

    lines: tuple[str, ...]
    encoding: str
    guessed: bool = False

    @property
    def first_line(self) -> str:
        return self.lines[0] if self.lines else ""


def read_caption(data: bytes) -> CaptionText:
    """The non-empty lines of a caption file. Raises CaptionUnreadable with the byte offset."""
    if len(data) > MAX_CAPTION_BYTES:
        raise CaptionUnreadable(msg("too large for a caption"), MAX_CAPTION_BYTES)
    text, encoding, guessed = _decode(data)
    lines = tuple(line for line in map(clean_line, text.splitlines()) if line)
    return CaptionText(lines=lines, encoding=encoding, guessed=guessed)


def clean_line(line: str) -> str:
    """One line as the tokenizer should see it: composed letters, no control or invisible
    characters, single spaces. Joiners stay: emoji and Arabic need them."""
    valid = line.encode("utf-8", "replace").decode()
    composed = unicodedata.normalize("NFC", valid).translate(_INVISIBLE)
    visible = "".join(" " if unicodedata.category(char) == "Cc" else char for char in composed)
    return " ".join(visible.split())


def _decode(data: bytes) -> tuple[str, str, bool]:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strict(data[len(mark) :], encoding, len(mark)), encoding, False
    wide = _wide_without_mark(data)
    if wide:
        return _strict(data, wide, 0), wide, False
    if b"\x00" in data:
        raise CaptionUnreadable(msg("holds NUL bytes, so it is no text"), data.index(b"\x00"))
    try:
        return data.decode("utf-8"), "utf-8", False
    except UnicodeDecodeError as error:
        return _guess(data, error.start)


def _strict(data: bytes, encoding: str, skipped: int) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise CaptionUnreadable(
            msg("is no valid {encoding}", encoding=encoding), error.start + skipped
        ) from None


def _wide_without_mark(data: bytes) -> str:
    """UTF-16 without its mark: text in Latin script has a NUL in every second byte."""
    if len(data) < 4 or len(data) % 2:
        return ""
    half = len(data) // 2
    if data[1::2].count(0) > 0.9 * half and not data[::2].count(0):
        return "utf-16-le"
    if data[::2].count(0) > 0.9 * half and not data[1::2].count(0):
        return "utf-16-be"
    return ""


def _guess(data: bytes, first_bad: int) -> tuple[str, str, bool]:
    """The most likely legacy encoding. Windows-1252 for a few high bytes among Latin letters,
    else the East Asian encoding whose text is all common characters, else what
    charset-normalizer finds."""
    for encoding in _EAST_ASIAN:
        text = _try(data, encoding)
        if text is not None and _is_east_asian(text):
            return text, encoding, True
    text = _try(data, "cp1252")
    if text is not None and _is_western(text):
        return text, "cp1252", True
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    if best is None or not any(char.isalpha() for char in str(best)):
        raise CaptionUnreadable(msg("is text in no encoding that is known here"), first_bad)
    return str(best), best.encoding, True


def _try(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_western(text: str) -> bool:
    """Letters of Western Europe, with ASCII letters in the majority."""
    high = [char for char in text if ord(char) > 127]
    letters = [char for char in text if char.isalpha()]
    typographic = "‘’“”–—…«»€°·¡¿™®© \u00a0"
    plain = sum(char.isascii() for char in letters)
    return plain * 2 > len(letters) and all(char.isalpha() or char in typographic for char in high)


def _is_east_asian(text: str) -> bool:
    """Kana, Hangul or common ideographs in runs, with nothing rare among them.

    One accented Latin letter before an ASCII one also decodes as a rare double-byte character;
    so a single high character inside Latin text does not count.
    """
    high = [char for char in text if ord(char) > 127]
    runs: Sequence[str] = re.findall(r"[^\x00-\x7f]{2,}", text)
    if not runs or sum(map(len, runs)) * 2 < len(high):
        return False
    return all(_is_common_east_asian(char) for char in high)


def _is_common_east_asian(char: str) -> bool:
    code = ord(char)
    return (
        0x3000 <= code <= 0x30FF  # punctuation, hiragana, katakana
        or 0x4E00 <= code <= 0x9FFF  # ideographs
        or 0xAC00 <= code <= 0xD7A3  # hangul
        or 0xFF00 <= code <= 0xFF60  # full-width forms
        or char in "“”‘’…—·×"
    )
