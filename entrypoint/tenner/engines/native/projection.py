"""A frozen linear layer with a LoRA beside it, in as few operations and bytes as it takes.

Plain autograd on `base(x) + up(down(x)) * scale` runs the scale and the sum as operations of
their own over the whole output, and saves what the frozen weight's gradient would need. Here the
low-rank part is added by the matrix product itself (one multiply-add with the scale folded in),
the gradient of the input is two products into one tensor, the weight gradients are products
written straight into the flat gradient, and only the input and the narrow inner values are kept
for the backward pass. Tokens are always [tokens, features]: nothing is reshaped on the way.
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
from tenner.engines.native.lora import LoraSite, Run


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
        if site.plain:
            y = plain_lora(x, self)
            return y if residual is None else y + residual
        return _LoraLinear.apply(x, residual, site.down, site.up, self)


def plain_lora(x: Tensor, projection: Projection) -> Tensor:
    """The same sum written plainly, for autograd and the compiler; also with dropouts."""
    site = projection.site
    y = functional.linear(x, projection.weight, projection.bias)
    assert site is not None
    dropouts = NO_DROPOUTS if site.bank.evaluating else projection.dropouts
    trained = dropouts.modules_trained(len(site.specs))
    if not any(trained):
        return y
    inner = dropouts.thinned(functional.linear(x, site.down.flatten(1)), site.bank.num_samples)
    return y + _plain_up(inner, site, trained) * (site.scale * dropouts.scale)


def _plain_up(inner: Tensor, site: LoraSite, trained: Sequence[bool]) -> Tensor:
    """[tokens, out] of all modules side by side; zeros for those that are left out."""
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
    """Without a LoRA nothing of the input is kept."""

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
        for run in site.runs:
            _add_up(y, inner, run, site)
        if residual is not None:
            y.add_(residual)
        ctx.save_for_backward(x, inner)
        ctx.projection = projection
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad = grads[0] if grads[0].stride(-1) == 1 else grads[0].contiguous()
        x, inner = ctx.saved_tensors
        projection: Projection = ctx.projection
        site = projection.site
        assert site is not None
        beta = 0.0 if site.bank.first_pass else 1.0
        grad_inner = _grad_inner(grad, site)
        for run in site.runs:
            _sink_up(grad, inner, run, site.scale, beta)
        _sink(site.down_sink, grad_inner.t(), x, site.scale, beta)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.mm(grad, projection.weight)
            dx.addmm_(grad_inner, site.down_t.t(), alpha=site.scale)
        return dx, grad if ctx.needs_input_grad[1] else None, None, None, None


def _sink(sink: Tensor, left: Tensor, right: Tensor, scale: float, beta: float) -> None:
    torch.addmm(sink, left, right, beta=beta, alpha=scale, out=sink)


def _single(run: Run, site: LoraSite) -> bool:
    return run.count == 1 and len(site.runs) == 1


def _add_up(y: Tensor, inner: Tensor, run: Run, site: LoraSite) -> None:
    """y[:, columns] += scale * inner[:, ranks] @ up.T for every module of the run at once."""
    if _single(run, site):
        y.addmm_(inner, run.single_t, alpha=site.scale)
        return
    target = _stacked(y, run.columns, run.count)
    target.baddbmm_(_stacked(inner, run.ranks, run.count), run.up_t, alpha=site.scale)


def _sink_up(grad: Tensor, inner: Tensor, run: Run, scale: float, beta: float) -> None:
    left = _stacked(grad, run.columns, run.count).mT
    right = _stacked(inner, run.ranks, run.count)
    torch.baddbmm(run.sink, left, right, beta=beta, alpha=scale, out=run.sink)


def _grad_inner(grad: Tensor, site: LoraSite) -> Tensor:
    """[tokens, count * rank]: the gradient of the inner values, without the scale."""
    if _single(site.runs[0], site):
        return torch.mm(grad, site.runs[0].single)
    found = grad.new_empty(grad.shape[0], len(site.specs) * site.rank)
    for run in site.runs:
        target = _stacked(found, run.ranks, run.count)
        torch.bmm(_stacked(grad, run.columns, run.count), run.up, out=target)
    return found


def _stacked(values: Tensor, columns: tuple[int, int], count: int) -> Tensor:
    """[tokens, count * width] at `columns`, seen as [count, tokens, width]. No copy."""
    first, last = columns
    tokens, stride = values.shape[0], values.stride(0)
    width = (last - first) // count
    start = values.storage_offset() + first
    return values.as_strided((count, tokens, width), (width, stride, 1), start)
