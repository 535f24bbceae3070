"""The name of a folder by kohya's convention: `10_cat` is ten repeats of the concept "cat"."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FolderName:
    """A folder name read by the convention. `exact` is how kohya's tools themselves read it."""

    num_repeats: int
    concept: str
    exact: bool


def read_folder_name(name: str) -> FolderName | None:
    """`10_cat` -> 10 x "cat"; `10 cat` and `10-cat` the same, but not `exact`; else None."""
    exact = re.fullmatch(r"\s*([+-]?\d+)\s*(?:_(.*))?", name, re.DOTALL)
    if exact:
        repeats = int(exact[1])
        return FolderName(num_repeats=repeats, concept=exact[2] or "", exact=True)
    near = re.fullmatch(r"\s*(\d{1,3})\s*[x×]?\s*[-–—._ ]\s*[-_]?\s*([^\d\s].*)", name, re.DOTALL)
    if near:
        return FolderName(num_repeats=int(near[1]), concept=near[2].strip(), exact=False)
    return None
