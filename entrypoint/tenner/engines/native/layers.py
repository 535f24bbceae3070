"""The frozen parts of the models: convolutions, norms, gates, attention.

Their weights never change, so their backward passes compute the input's gradient alone. A frozen
convolution then saves only the size of its input, where autograd would save the input; a gated unit
saves its input instead of three tensors.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from tenner.engines.native import small_maps
from tenner.engines.native.dropouts import NO_DROPOUTS, Dropouts
from tenner.engines.native.lora import LoraSite


class Conv:
    """A frozen convolution, with a LoRA where `site` is given.

    Call with `x` [batch, in, height, width]; the result is [batch, out, height, width], divided by
    the stride. `added` is added to it: another feature map of its size, or [batch, out, 1, 1].
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: int = 1,
        padding: int = 0,
        site: LoraSite | None = None,
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.stride = stride
        self.padding = padding
        self.site = site
        self.dropouts = NO_DROPOUTS

    def __call__(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        y = cast(Tensor, _FrozenConv.apply(x, added, self))
        if self.site is None:
            return y
        dropouts = NO_DROPOUTS if self.site.bank.evaluating else self.dropouts
        if not all(dropouts.modules_trained(1)):
            return y
        return y + self._low_rank(x, self.site, dropouts)

    def _low_rank(self, x: Tensor, site: LoraSite, dropouts: Dropouts) -> Tensor:
        inner = functional.conv2d(x, site.down, stride=self.stride, padding=self.padding)
        inner = dropouts.drop(inner, inner.shape[0])
        up = site.up.view(-1, site.rank, 1, 1)
        return functional.conv2d(inner * (site.scale * dropouts.scale), up)


class _FrozenConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, conv: Conv) -> Tensor:
        ctx.conv = conv
        ctx.size = x.shape
        ctx.small = small_maps.is_small(x, conv.weight, conv.stride)
        convolve = small_maps.convolve if ctx.small else functional.conv2d
        y = convolve(x, conv.weight, conv.bias, conv.stride, conv.padding)
        return y if added is None else y.add_(added)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad, conv = grads[0], cast(Conv, ctx.conv)
        dx = None
        if ctx.needs_input_grad[0] and ctx.small:
            dx = small_maps.input_gradient(grad, ctx.size, conv.weight, conv.stride, conv.padding)
        elif ctx.needs_input_grad[0]:
            dx = torch.ops.aten.convolution_backward(
                grad,
                grad.new_empty(1).expand(ctx.size),  # the input: only its size is read
                conv.weight,
                None,
                (conv.stride, conv.stride),
                (conv.padding, conv.padding),
                (1, 1),
                False,
                (0, 0),
                1,
                (True, False, False),
            )[0]
        return dx, grad if ctx.needs_input_grad[1] else None, None


class GroupNorm:
    """A frozen group norm over [batch, channels, height, width]."""

    def __init__(self, weight: Tensor, bias: Tensor, num_groups: int, eps: float) -> None:
        self.weight = weight
        self.bias = bias
        self.num_groups = num_groups
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm:
    """A frozen layer norm over the last axis."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> None:
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def geglu(x: Tensor) -> Tensor:
    """[tokens, 2 * width] -> [tokens, width]: the first half times the GELU of the second."""
    return cast(Tensor, _Geglu.apply(x))


class _Geglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        values, gate = x.chunk(2, dim=-1)
        return functional.gelu(gate).mul_(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        grad = grads[0]
        values, gate = x.chunk(2, dim=-1)
        found = torch.empty_like(x)
        d_values, d_gate = found.chunk(2, dim=-1)
        torch.mul(grad, functional.gelu(gate), out=d_values)
        torch.ops.aten.gelu_backward.grad_input(grad * values, gate, grad_input=d_gate)
        return found


def attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """[batch, heads, tokens, dim] each -> [batch * tokens, heads * dim]."""
    found = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    batch, heads, tokens, width = query.shape
    return found.transpose(1, 2).reshape(batch * tokens, heads * width)


def heads_of(joined: Tensor, batch: int, num_parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """[batch * tokens, parts * heads * dim] -> a view [batch, heads, tokens, dim] of each part."""
    if torch.compiler.is_compiling():
        return _split_heads(joined, batch, num_parts, num_heads)
    return cast("tuple[Tensor, ...]", _Heads.apply(joined, batch, num_parts, num_heads))


def _split_heads(joined: Tensor, batch: int, num_parts: int, num_heads: int) -> tuple[Tensor, ...]:
    width = joined.shape[1] // (num_parts * num_heads)
    parts = joined.view(batch, -1, num_parts, num_heads, width)
    return parts.permute(2, 0, 3, 1, 4).unbind(0)


class _Heads(torch.autograd.Function):
    """The parts of a joined product. Autograd's own gradient stacks those of the parts and copies
    the stack into the layout of the product. This one writes them there in one operation, and
    returns a view for a single part in that layout."""

    @staticmethod
    def forward(
        ctx: Any, joined: Tensor, batch: int, num_parts: int, num_heads: int
    ) -> tuple[Tensor, ...]:
        return _split_heads(joined, batch, num_parts, num_heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        turned = [grad.transpose(1, 2) for grad in grads]  # [batch, tokens, heads, dim]
        found = turned[0] if len(turned) == 1 else torch.stack(turned, dim=2)
        return found.reshape(found.shape[0] * found.shape[1], -1), None, None, None


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 * x), CLIP's activation; saves only its input."""
    return cast(Tensor, _QuickGelu.apply(x))


class _QuickGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x * 1.702).sigmoid_().mul_(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        gate = (x * 1.702).sigmoid_()
        # d/dx x s(ax) = s + a x s (1 - s)
        slope = torch.addcmul(gate, gate * x, 1 - gate, value=1.702)
        return slope.mul_(grads[0])
