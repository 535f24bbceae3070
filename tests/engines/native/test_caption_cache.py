"""The cache of encoded captions: bounded in bytes, and complete for every batch."""

from collections.abc import Sequence
from typing import cast

import pytest
import torch

from tenner.engines.native.text import CaptionCache, Conditioning, TextEncoders

ONE = 77 * 4 * 4
"""Bytes of one caption below: 77 tokens of 4 numbers in fp32."""


class Encoders:
    """Encodes a caption to its own number, and counts how often."""

    device = torch.device("cpu")

    def __init__(self, *, pools: bool = False) -> None:
        self.encoded: list[str] = []
        self.pools = pools

    def encode(self, captions: Sequence[str]) -> Conditioning:
        self.encoded += captions
        context = torch.stack([torch.full((77, 4), float(each)) for each in captions])
        return Conditioning(context, context[:, 0] if self.pools else None)


def cache(encoders: Encoders, captions: int) -> CaptionCache:
    return CaptionCache(cast(TextEncoders, encoders), max_bytes=captions * ONE)


def values(found: Conditioning) -> list[float]:
    return found.context[:, 0, 0].tolist()


def test_more_captions_than_the_cache_holds_are_encoded_batch_by_batch() -> None:
    """Batches of one old caption and three new ones, above any fixed number of entries."""
    cached = CaptionCache(cast(TextEncoders, Encoders()))
    for start in range(0, 6000, 3):
        batch = ["0", *(str(start + each) for each in range(1, 4))]
        assert values(cached.encode(batch)) == [float(each) for each in batch]


@pytest.mark.parametrize("captions", [0, 1, 2, 3])
def test_a_batch_larger_than_the_cache_is_whole(captions: int) -> None:
    cached = cache(Encoders(), captions)
    for batch in (["1", "2", "3", "1"], ["4", "1", "2", "5"]):
        assert values(cached.encode(batch)) == [float(each) for each in batch]
        assert cached.num_bytes <= captions * ONE


def test_the_least_recently_used_caption_is_dropped() -> None:
    encoders = Encoders()
    cached = cache(encoders, 2)
    for caption in ("1", "2", "1", "3", "1", "2"):
        cached.encode([caption])
    assert encoders.encoded == ["1", "2", "3", "2"]


def test_pooled_text_counts_too() -> None:
    cached = cache(Encoders(pools=True), 2)
    found = cached.encode(["1", "2"])
    assert found.pooled is not None
    assert found.pooled.tolist() == [[1.0] * 4, [2.0] * 4]
    assert cached.num_bytes == ONE + 4 * 4, "two of them are above the limit"
