"""Convolutions of small feature maps on a CPU, as one matrix product.

At the lowest levels of a U-Net a map has a few positions and a weight tens of megabytes. oneDNN
reorders the whole weight at every call, which then costs several times the arithmetic (measured:
1280 channels at 2x2, batch 2, 21 ms against 4.5; at 1920 to 640 channels and 4x4, 17 against 6).
As a product of patches and weight, the weight is read once in its own layout. GPUs use `conv2d`.
"""

from torch import Tensor
from torch.nn import functional

MOST_POSITIONS = 64
"""Output positions of a batch, up to which the product is faster."""
LEAST_WEIGHTS = 8_000_000
"""Of smaller weights oneDNN is as fast: the reordered weight stays in the CPU's cache."""


def is_small(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether the product is faster: on a CPU, few output positions, a large weight."""
    if x.device.type != "cpu" or weight.numel() < LEAST_WEIGHTS:
        return False
    positions = x.shape[0] * (x.shape[2] // stride) * (x.shape[3] // stride)
    return positions <= MOST_POSITIONS


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """As `conv2d`: [batch, in, height, width] to [batch, out, ...], channels last."""
    patches, size = _patches(x, weight, stride, padding)
    y = functional.linear(patches, _rows(weight), bias)
    return y.view(x.shape[0], *size, -1).permute(0, 3, 1, 2)


def input_gradient(
    grad: Tensor, shape: tuple[int, ...], weight: Tensor, stride: int, padding: int
) -> Tensor:
    """The gradient of `convolve`'s input, which has `shape`, from that of its output."""
    batch, channels, height, width = shape
    kernel = weight.shape[2]
    rows, columns = grad.shape[2], grad.shape[3]
    grad_rows = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])
    patches = grad_rows @ _rows(weight)
    patches = patches.view(batch, rows, columns, *_patch_shape(weight))
    padded = grad.new_zeros(batch, height + 2 * padding, width + 2 * padding, channels)
    for i in range(kernel):
        for j in range(kernel):
            part = patches[:, :, :, i, j] if _is_channels_last(weight) else patches[..., i, j]
            padded[:, i : i + rows * stride : stride, j : j + columns * stride : stride] += part
    inner = padded[:, padding : padding + height, padding : padding + width]
    return inner.permute(0, 3, 1, 2)


def _is_channels_last(weight: Tensor) -> bool:
    """Whether the weight is channels last: [out, height, width, in] in memory."""
    return weight.permute(0, 2, 3, 1).is_contiguous()


def _patch_shape(weight: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = weight.shape
    return (height, width, channels) if _is_channels_last(weight) else (channels, height, width)


def _rows(weight: Tensor) -> Tensor:
    """The weight as [out, numbers of a patch], without a copy in either layout."""
    rows = weight.permute(0, 2, 3, 1) if _is_channels_last(weight) else weight
    return rows.flatten(1)


def _patches(
    x: Tensor, weight: Tensor, stride: int, padding: int
) -> tuple[Tensor, tuple[int, int]]:
    """All patches, [positions, numbers of a patch], and the output's height and width."""
    kernel = weight.shape[2]
    padded = functional.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    windows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride)  # [b, h, w, in, kh, kw]
    if _is_channels_last(weight):
        windows = windows.permute(0, 1, 2, 4, 5, 3)
    return windows.reshape(-1, weight[0].numel()), (windows.shape[1], windows.shape[2])
