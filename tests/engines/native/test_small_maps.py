"""A convolution as a matrix product equals `conv2d`, forward and backward, in either layout."""

import pytest
import torch
from torch.nn import functional

from tenner.engines.native import small_maps


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0)])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 6)])
def test_forward_and_gradient_are_those_of_conv2d(
    layout: torch.memory_format, kernel: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, kernel, kernel, dtype=torch.float64).to(memory_format=layout)
    bias = torch.randn(7, dtype=torch.float64)
    expected = functional.conv2d(x, weight, bias, stride, padding)
    found = small_maps.convolve(x.detach(), weight, bias, stride, padding)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    (wanted_gradient,) = torch.autograd.grad(expected, x, grad)
    gradient = small_maps.input_gradient(grad, tuple(x.shape), weight, stride, padding)
    torch.testing.assert_close(gradient, wanted_gradient)


def test_only_large_weights_on_small_maps_are_taken() -> None:
    large = torch.empty(1280, 1280, 3, 3, device="meta")
    small = torch.empty(320, 320, 3, 3)
    assert not small_maps.is_small(torch.empty(2, 320, 2, 2), small, 1)
    weight = torch.empty(1).expand(1280, 1280, 3, 3)
    assert small_maps.is_small(torch.empty(2, 1280, 2, 2), weight, 1)
    assert not small_maps.is_small(torch.empty(2, 1280, 16, 16), weight, 1)
    assert not small_maps.is_small(torch.empty(2, 1280, 2, 2, device="meta"), large, 1)
