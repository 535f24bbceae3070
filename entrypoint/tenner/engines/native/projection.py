"""A frozen linear layer with a LoRA beside it, in few operations and little memory.

Autograd of `base(x) + up(down(x)) * scale` has separate operations over the whole output for the
scale and the sum, and saves what the frozen weight's gradient would need. Here the low-rank part is
added by the matrix product itself (`addmm` with alpha), the gradient of the input is two products
into one tensor, the weights' gradients are products written directly into the flat gradient, and
only the input and the inner values [tokens, rank] are saved for the backward pass. Inputs are
always [tokens, features], so that nothing is reshaped.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tenner.engines.native.dropouts import NO_DROPOUTS
from tenner.engines.native.lora import LoraSite, UpGroup


class Projection:
    """`x @ weight.T + bias`, plus the site's LoRA where there is one, plus a residual.

    weight [out, in] is frozen. Call with x [tokens, in]; the result is [tokens, out].
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, site: LoraSite | None = None) -> None:
        self.weight = weight
        self.weight_t = weight.t()
        self.bias = bias
        self.site = site
        self.dropouts = NO_DROPOUTS

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        site = self.site
        if site is None:
            return _FrozenLinear.apply(x, residual, self)
        if site.uses_autograd:
            y = lora_by_autograd(x, self)
            return y if residual is None else y + residual
        return _LoraLinear.apply(x, residual, site.down, site.up, self)


def lora_by_autograd(x: Tensor, projection: Projection) -> Tensor:
    """The same for autograd and the compiler: x [tokens, in] to [tokens, out]; with dropouts."""
    site = projection.site
    y = functional.linear(x, projection.weight, projection.bias)
    assert site is not None
    dropouts = NO_DROPOUTS if site.bank.evaluating else projection.dropouts
    trained = dropouts.modules_trained(len(site.specs))
    if not any(trained):
        return y
    inner = dropouts.drop(functional.linear(x, site.down.flatten(1)), site.bank.num_samples)
    return y + _up_by_autograd(inner, site, trained) * (site.scale * dropouts.scale)


def _up_by_autograd(inner: Tensor, site: LoraSite, trained: Sequence[bool]) -> Tensor:
    """[tokens, out]: the outputs of all modules, concatenated; zeros for dropped ones."""
    ups = site.up.split([spec.out_features * site.rank for spec in site.specs])
    inners = inner.split(site.rank, dim=1)
    parts = [
        functional.linear(values, up.view(-1, site.rank))
        if is_trained
        else inner.new_zeros(inner.shape[0], up.numel() // site.rank)
        for values, up, is_trained in zip(inners, ups, trained, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _base(x: Tensor, projection: Projection) -> Tensor:
    if projection.bias is None:
        return torch.mm(x, projection.weight_t)
    return torch.addmm(projection.bias, x, projection.weight_t)


class _FrozenLinear(torch.autograd.Function):
    """A layer without a LoRA: saves nothing for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, projection: Projection) -> Tensor:
        ctx.weight = projection.weight
        y = _base(x, projection)
        return y if residual is None else y.add_(residual)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad = grads[0]
        dx = torch.mm(grad, ctx.weight) if ctx.needs_input_grad[0] else None
        return dx, grad if ctx.needs_input_grad[1] else None, None


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        down: Tensor,
        up: Tensor,
        projection: Projection,
    ) -> Tensor:
        site = projection.site
        assert site is not None
        y = _base(x, projection)
        inner = torch.mm(x, site.down_t)
        for group in site.up_groups:
            _add_up(y, inner, group, site)
        if residual is not None:
            y.add_(residual)
        ctx.save_for_backward(x, inner)
        ctx.projection = projection
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        # `_stacked` needs adjacent columns; a sum's gradient is an expanded scalar.
        grad = grads[0] if grads[0].stride(-1) == 1 else grads[0].contiguous()
        x, inner = ctx.saved_tensors
        projection: Projection = ctx.projection
        site = projection.site
        assert site is not None
        beta = 0.0 if site.bank.first_pass else 1.0
        grad_inner = _grad_inner(grad, site)
        for group in site.up_groups:
            _accumulate_up(grad, inner, group, site.scale, beta)
        _accumulate(site.down_grad, grad_inner.t(), x, site.scale, beta)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.mm(grad, projection.weight)
            dx.addmm_(grad_inner, site.down_t.t(), alpha=site.scale)
        return dx, grad if ctx.needs_input_grad[1] else None, None, None, None


def _accumulate(total: Tensor, left: Tensor, right: Tensor, scale: float, beta: float) -> None:
    """total = beta * total + scale * left @ right, in place."""
    torch.addmm(total, left, right, beta=beta, alpha=scale, out=total)


def _single(group: UpGroup, site: LoraSite) -> bool:
    return group.count == 1 and len(site.up_groups) == 1


def _add_up(y: Tensor, inner: Tensor, group: UpGroup, site: LoraSite) -> None:
    """y[:, columns] += scale * inner[:, ranks] @ up.T for every module of the group at once."""
    if _single(group, site):
        y.addmm_(inner, group.single_t, alpha=site.scale)
        return
    target = _stacked(y, group.columns, group.count)
    target.baddbmm_(_stacked(inner, group.ranks, group.count), group.up_t, alpha=site.scale)


def _accumulate_up(grad: Tensor, inner: Tensor, group: UpGroup, scale: float, beta: float) -> None:
    """The same for the ups of a group: [count, out, rank] of grad [tokens, …] and inner."""
    left = _stacked(grad, group.columns, group.count).mT
    right = _stacked(inner, group.ranks, group.count)
    torch.baddbmm(group.up_grad, left, right, beta=beta, alpha=scale, out=group.up_grad)


def _grad_inner(grad: Tensor, site: LoraSite) -> Tensor:
    """[tokens, count * rank]: the gradient of the inner values, without the scale."""
    if _single(site.up_groups[0], site):
        return torch.mm(grad, site.up_groups[0].single)
    found = grad.new_empty(grad.shape[0], len(site.specs) * site.rank)
    for group in site.up_groups:
        target = _stacked(found, group.ranks, group.count)
        torch.bmm(_stacked(grad, group.columns, group.count), group.up, out=target)
    return found


def _stacked(values: Tensor, columns: tuple[int, int], count: int) -> Tensor:
    """`values[:, columns]`, [tokens, count * width], as a view [count, tokens, width]."""
    first, last = columns
    tokens, stride = values.shape[0], values.stride(0)
    width = (last - first) // count
    start = values.storage_offset() + first
    return values.as_strided((count, tokens, width), (width, stride, 1), start)
