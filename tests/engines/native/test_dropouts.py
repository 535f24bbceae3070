"""Dropouts of the LoRA as in sd-scripts' `networks.lora`, for linear layers and 3x3 convolutions.

The expected values are computed here, module by module, with separate products.
"""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tenner.engines.native.dropouts import Dropouts
from tenner.engines.native.layers import Conv
from tenner.engines.native.lora import LoraBank, LoraSite, LoraSpec
from tenner.engines.native.projection import Projection

RANK, WIDTH, SAMPLES = 3, 8, 4


def made(num_modules: int, kernel: tuple[int, ...] = ()) -> tuple[LoraBank, LoraSite]:
    bank = LoraBank()
    specs = tuple(
        LoraSpec(
            name=f"m{index}",
            in_features=WIDTH,
            out_features=WIDTH,
            rank=RANK,
            alpha=6.0,
            kernel=kernel,
        )
        for index in range(num_modules)
    )
    site = bank.add("unet", specs)
    site.uses_autograd = True
    bank.allocate(torch.device("cpu"), torch.float32)
    torch.manual_seed(3)
    with torch.no_grad():
        bank.weights.normal_()
    bank.begin_pass(first=True, num_samples=SAMPLES)
    return bank, site


def stacked(dropouts: Dropouts) -> tuple[LoraBank, Projection, list[tuple[Tensor, Tensor]]]:
    bank, site = made(3)
    projection = Projection(torch.zeros(3 * WIDTH, WIDTH), None, site)
    projection.dropouts = dropouts
    matrices = [(down, up) for _, down, up in bank.named_views(bank.weights)]
    return bank, projection, matrices


def convolution(dropouts: Dropouts) -> tuple[LoraBank, Conv, Tensor, Tensor]:
    bank, site = made(1, (3, 3))
    conv = Conv(torch.zeros(WIDTH, WIDTH, 3, 3), None, padding=1, site=site)
    conv.dropouts = dropouts
    [(_, down, up)] = bank.named_views(bank.weights)
    return bank, conv, down, up


def test_each_module_of_a_site_is_dropped_separately() -> None:
    _, projection, matrices = stacked(Dropouts(module=0.5))
    x = torch.randn(SAMPLES * 5, WIDTH)
    whole = [x @ down.T @ up.T * 2 for down, up in matrices]
    seen: set[tuple[bool, ...]] = set()
    for seed in range(100):
        torch.manual_seed(seed)
        parts = projection(x).detach().split(WIDTH, dim=1)
        is_used = tuple(bool(part.abs().sum() > 0) for part in parts)
        for part, full, used in zip(parts, whole, is_used, strict=True):
            torch.testing.assert_close(part, full if used else torch.zeros_like(full))
        seen.add(is_used)
    assert seen == set(itertools.product([True, False], repeat=3))


def test_a_dropped_module_learns_nothing_and_its_neighbours_do() -> None:
    bank, projection, _ = stacked(Dropouts(module=0.5))
    for seed in range(100):
        torch.manual_seed(seed)
        bank.begin_pass(first=True, num_samples=SAMPLES)
        y = projection(torch.randn(SAMPLES * 5, WIDTH))
        is_used = [bool(part.abs().sum() > 0) for part in y.detach().split(WIDTH, dim=1)]
        if sum(is_used) not in (1, 2):
            continue
        y.sum().backward()
        learnt = [bool(up.abs().sum() > 0) for _, _, up in bank.named_views(bank.grads)]
        assert learnt == is_used
        return
    raise AssertionError("in a hundred passes all or none were dropped")


@pytest.mark.parametrize("chance", [0.3, 0.7])
def test_ranks_of_a_convolution_are_dropped_for_each_sample(chance: float) -> None:
    _, conv, down, up = convolution(Dropouts(rank=chance))
    x = torch.randn(SAMPLES, WIDTH, 6, 6)
    torch.manual_seed(5)
    y = conv(x).detach()
    torch.manual_seed(5)
    is_used = torch.rand(SAMPLES, RANK) > chance
    inner = functional.conv2d(x, down, padding=1) * is_used[:, :, None, None]
    expected = functional.conv2d(inner, up) * 2 / (1 - chance)
    assert 0 < int(is_used.sum()) < is_used.numel()
    torch.testing.assert_close(y, expected)


def test_inner_values_of_a_convolution_are_dropped() -> None:
    _, conv, down, up = convolution(Dropouts(inner=0.5))
    x = torch.randn(SAMPLES, WIDTH, 6, 6)
    torch.manual_seed(5)
    y = conv(x).detach()
    torch.manual_seed(5)
    inner = functional.dropout(functional.conv2d(x, down, padding=1), 0.5)
    torch.testing.assert_close(y, functional.conv2d(inner, up) * 2)


def test_a_convolution_is_dropped_as_often_as_set() -> None:
    _, conv, _, _ = convolution(Dropouts(module=0.25))
    x = torch.randn(1, WIDTH, 4, 4)
    torch.manual_seed(0)
    dropped = sum(bool(conv(x).abs().sum() == 0) for _ in range(1000))
    assert 200 < dropped < 300  # 250 +- 3.6 standard deviations


def test_nothing_is_dropped_in_validation() -> None:
    bank, conv, down, up = convolution(Dropouts(inner=0.5, rank=0.5, module=0.5))
    bank.evaluating = True
    x = torch.randn(SAMPLES, WIDTH, 6, 6)
    expected = functional.conv2d(functional.conv2d(x, down, padding=1), up) * 2
    for _ in range(5):
        torch.testing.assert_close(conv(x).detach(), expected)
