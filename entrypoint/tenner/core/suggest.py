"""Which known name a misspelt one most likely means."""

from collections.abc import Iterable


def nearest_name(typo: str, known: Iterable[str], *, least: float = 70.0) -> str | None:
    """The most similar known name, or None where no similarity reaches `least` of 100.

    70 allows one or two typing errors in names of usual length, 60 in short ones.
    """
    from rapidfuzz import fuzz, process  # not needed by most starts of the program

    found = process.extractOne(typo, list(known), scorer=fuzz.ratio, score_cutoff=least)
    return found[0] if found else None
