"""Where the parts of a pipeline lie while a card draws, and that they draw the same there."""

import pytest
import torch

from tenner.sample.device import place
from tenner.sample.placement import Placement, placement_of
from tests.sample.tiny_flux import open_tiny_flux, picture

GB = 1e9
FLUX = {"transformer": 23.8 * GB, "t5xxl": 9.8 * GB, "clip_l": 0.25 * GB, "ae": 0.17 * GB}


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (48, Placement(is_whole=True)),
        (32, Placement()),
        (24, Placement(is_8_bit=True)),
        (13, Placement(is_8_bit=True, streamed=frozenset({"transformer"}))),
        (8, Placement(is_8_bit=True, streamed=frozenset({"transformer", "t5xxl"}))),
    ],
)
def test_the_fastest_that_fits_is_taken(free: float, expected: Placement) -> None:
    assert placement_of(FLUX, free * GB, denoiser="transformer") == expected


STREAMED = [
    Placement(),
    Placement(streamed=frozenset({"transformer"})),
    Placement(streamed=frozenset({"transformer", "text_encoder_2", "vae"})),
]


@pytest.mark.parametrize("placement", STREAMED)
def test_parts_that_are_moved_when_they_are_used_draw_the_same(placement: Placement) -> None:
    pipe = open_tiny_flux()
    expected = picture(pipe)
    place(pipe, torch.device("cpu"), placement)
    for name in placement.streamed:
        assert {each.device.type for each in getattr(pipe, name).parameters()} == {"meta"}
    for _ in range(2):
        assert torch.equal(picture(pipe), expected)


@pytest.mark.parametrize("streamed", [frozenset[str](), frozenset({"transformer"})])
def test_8_bit_weights_draw_nearly_the_same(streamed: frozenset[str]) -> None:
    """Each weight is off by a sixteenth at most; the LoRA is as it was."""
    pipe = open_tiny_flux()
    expected = picture(pipe)
    pipe.disable_lora()
    without = picture(pipe)
    pipe.enable_lora()
    weights = pipe.transformer.transformer_blocks[0].attn.to_q.base_layer
    before = weights.weight.clone()
    place(pipe, torch.device("cpu"), Placement(is_8_bit=True, streamed=streamed))
    if not streamed:
        assert weights.parametrizations.weight.original0.dtype == torch.float8_e4m3fn
        assert ((weights.weight - before).abs() <= before.abs() / 16 + 1e-4).all()
    found = picture(pipe)
    assert not torch.equal(found, expected)
    changed = (expected - without).abs().mean()
    assert (found - expected).abs().mean() < changed / 4
