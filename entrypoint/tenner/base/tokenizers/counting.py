"""How many tokens CLIP makes of a text, without the libraries that train: for `check` on a laptop.

CLIP's own way: the text in NFC and lower case is cut into pieces (contractions, runs of letters,
single numerals, runs of other signs), each piece's UTF-8 bytes are merged pair by pair, the pair
that comes first in `merges.txt` before the others, until none is left. The `tokenizers` library
gives the same counts, but makes its tables in 0.2 s where this takes 0.08 s, and needs
huggingface_hub and Xet: 45 MB that an installation without the Hub does not have.
"""

import re
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

from tenner.base.tokenizers import printable_bytes

_PIECE = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")
_END_OF_WORD = "</w>"


def count_tokens(text: str) -> int:
    """The tokens of `text`, without the marks of its start and end."""
    lower = unicodedata.normalize("NFC", text).lower()
    return sum(map(_count_in_run, _PIECE.findall(lower)))


def most_tokens(text: str) -> int:
    """An upper bound that costs nothing: a token is a byte or more, and never a blank."""
    return len("".join(text.split()).encode())


def _count_in_run(run: str) -> int:
    """Python's letters hold some numerals (½, Ⅳ), which for CLIP stand alone."""
    if run.isascii() or not any(unicodedata.category(sign)[0] == "N" for sign in run):
        return _count_in_piece(run)
    pieces = re.findall(r"\0.|[^\0]+", "".join(_marked(sign) for sign in run))
    return sum(_count_in_piece(piece.removeprefix("\0")) for piece in pieces)


def _marked(sign: str) -> str:
    return f"\0{sign}" if unicodedata.category(sign)[0] == "N" else sign


@cache
def _count_in_piece(piece: str) -> int:
    ranks, alphabet = _ranks(), _alphabet()
    parts = [alphabet[byte] for byte in piece.encode()]
    parts[-1] += _END_OF_WORD
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        first = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if first not in ranks:
            break
        parts = _merged(parts, first)
    return len(parts)


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    at = 0
    while at < len(parts):
        if tuple(parts[at : at + 2]) == pair:
            merged.append("".join(pair))
            at += 2
        else:
            merged.append(parts[at])
            at += 1
    return merged


@cache
def _ranks() -> dict[tuple[str, str], int]:
    """The index of each pair in CLIP's merges."""
    lines = (Path(__file__).parent / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split() for line in lines[1:] if line.strip())
    return {(first, second): rank for rank, (first, second) in enumerate(pairs)}


@cache
def _alphabet() -> dict[int, str]:
    """The printable character of each byte."""
    return printable_bytes()
