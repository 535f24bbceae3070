"""Which pictures are nearly the same: by difference hash and mean colours together. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise

from tenner.dataset.facts import ImageFacts

MAX_BITS = 26
"""Of 256: a tenth, for re-encoded, resized and slightly retouched copies."""
MAX_COLOR = 12
"""Mean difference of the 4x4 mean colours, of 255."""
MIN_BITS_SET = 16
"""A hash with fewer bits set, or unset, is of a flat picture and cannot be compared."""
BANDS = MAX_BITS + 1
"""Pieces of 9 or 10 bits: of two hashes within 26 bits of each other at least one is the same."""
MAX_IN_BAND = 200
"""A piece that more pictures share is too common to point at any."""


def near_duplicates(facts: Mapping[str, ImageFacts]) -> list[tuple[str, ...]]:
    """Groups of paths, each of pictures that are nearly the same but not the same file."""
    paths = [path for path, each in facts.items() if _says_something(int(each.dhash, 16))]
    hashes = [int(facts[path].dhash, 16) for path in paths]
    colors = [bytes.fromhex(facts[path].colors) for path in paths]
    group = list(range(len(paths)))
    for one, other in _candidates(hashes):
        if (hashes[one] ^ hashes[other]).bit_count() > MAX_BITS:
            continue
        if facts[paths[one]].sha256 == facts[paths[other]].sha256:
            continue
        if _color_distance(colors[one], colors[other]) <= MAX_COLOR:
            _join(group, one, other)
    members: defaultdict[int, list[str]] = defaultdict(list)
    for index, path in enumerate(paths):
        members[_root(group, index)].append(path)
    return [tuple(found) for found in members.values() if len(found) > 1]


def alike_groups(facts: Mapping[str, ImageFacts]) -> list[tuple[str, ...]]:
    """Groups of paths, each of pictures that are the same or nearly so, in the order given."""
    copies: defaultdict[str, list[str]] = defaultdict(list)
    for path, each in facts.items():
        copies[each.sha256].append(path)
    first = {paths[0]: facts[paths[0]] for paths in copies.values()}
    near = {path: number for number, group in enumerate(near_duplicates(first)) for path in group}
    groups: defaultdict[int | str, list[str]] = defaultdict(list)
    for path, each in facts.items():
        groups[near.get(copies[each.sha256][0], each.sha256)].append(path)
    return [tuple(found) for found in groups.values() if len(found) > 1]


def _says_something(bits: int) -> bool:
    return MIN_BITS_SET <= bits.bit_count() <= 256 - MIN_BITS_SET


def _candidates(hashes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs that share a piece of the hash at the same position; some come more than once."""
    edges = [256 * band // BANDS for band in range(BANDS + 1)]
    for low, high in pairwise(edges):
        mask = (1 << (high - low)) - 1
        same: defaultdict[int, list[int]] = defaultdict(list)
        for index, bits in enumerate(hashes):
            same[bits >> low & mask].append(index)
        for indexes in same.values():
            if len(indexes) <= MAX_IN_BAND:
                yield from combinations(indexes, 2)


def _color_distance(one: bytes, other: bytes) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def _root(group: list[int], index: int) -> int:
    while group[index] != index:
        group[index] = group[group[index]]
        index = group[index]
    return index


def _join(group: list[int], one: int, other: int) -> None:
    group[_root(group, other)] = _root(group, one)
