"""A transformer's samples on an NVIDIA card, held to themselves on the CPU."""

import pytest
import torch
from tiny_flux import open_tiny_flux, picture

from tenner.sample.device import place
from tenner.sample.placement import Placement

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("placement", "largest"),
    [
        (Placement(is_whole=True), 0.01),
        (Placement(), 0.01),
        (Placement(streamed=frozenset({"transformer", "text_encoder_2"})), 0.01),
        (Placement(is_8_bit=True), 0.1),
        (Placement(is_8_bit=True, streamed=frozenset({"transformer"})), 0.1),
    ],
)
def test_a_transformer_draws_the_same_wherever_its_parts_lie(
    device: torch.device, placement: Placement, largest: float
) -> None:
    expected = picture(open_tiny_flux())
    pipe = open_tiny_flux()
    place(pipe, device, placement)
    for _ in range(2):
        off = (picture(pipe) - expected).abs()
        assert off.mean() < largest / 4
        assert off.max() < largest
