"""The LoRA's weights: which modules have them, their initial values, and their memory layout.

The network is that of sd-scripts' `networks.lora`: a `lora_down` and a `lora_up` matrix beside
each adapted module, `alpha / dim` as scale, the same names and shapes in the file. The memory
layout is our own, and the reason why peft is not used: all weights are one flat tensor, and so are
their gradients. The optimizer then updates one tensor for each learning rate instead of hundreds,
clipping, the all-reduce and the copy to low precision are one operation each, and the backward pass
writes gradients directly into the flat tensor. Modules that read the same input (query, key, value)
are adjacent and share one product.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tenner.engines.native.rng import torch_rng

# Elements: 128 bytes in bf16, on which GPUs read matrices fastest.
_ALIGNMENT = 64
BLOCK = 256
"""Elements that have one scale in the states of bitsandbytes' 8-bit optimizers."""


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """One adapted module. `kernel` is its spatial size: () for linear, (1, 1) or (3, 3)."""

    name: str
    in_features: int
    out_features: int
    rank: int
    alpha: float
    kernel: tuple[int, ...] = ()

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def down_shape(self) -> tuple[int, ...]:
        return (self.rank, self.in_features, *self.kernel)

    @property
    def up_shape(self) -> tuple[int, ...]:
        return (self.out_features, self.rank, *(1 for _ in self.kernel))


@dataclass(frozen=True, kw_only=True)
class UpGroup:
    """Adjacent modules of a site with equal output widths, which one batched product computes.

    `up` is [count, out, rank], `up_grad` its gradient. `columns` (first, last) are theirs in the
    site's output, and `ranks` theirs in its inner values [tokens, modules * rank].
    """

    count: int
    out: int
    columns: tuple[int, int]
    ranks: tuple[int, int]
    up: Tensor
    up_grad: Tensor
    up_t: Tensor
    """`up` with its matrices transposed: views cost the host time, so they are made once."""
    single: Tensor
    """The first matrix, [out, rank]."""
    single_t: Tensor


class LoraSite:
    """Modules that read one input, computed together: `down` is [modules * rank, in], or
    [modules * rank, in, height, width] for convolutions.

    `down` and `up` are leaves of autograd's graph; `down_grad` and the groups' `up_grad` are views
    of the flat gradient.
    """

    down: Tensor
    up: Tensor
    down_t: Tensor
    down_grad: Tensor
    up_groups: tuple[UpGroup, ...]

    def __init__(self, bank: "LoraBank", specs: tuple[LoraSpec, ...]) -> None:
        self.bank = bank
        self.specs = specs
        self.rank = specs[0].rank
        self.scale = specs[0].scale
        self.kernel = specs[0].kernel
        self.uses_autograd = False
        """Whether autograd computes the gradients (3x3 convolutions, dropout, compiled blocks), not
        `projection`'s own backward pass."""

    @property
    def down_numel(self) -> int:
        return sum(math.prod(spec.down_shape) for spec in self.specs)

    @property
    def up_numel(self) -> int:
        return sum(math.prod(spec.up_shape) for spec in self.specs)

    def bind(self, weights: Tensor, pass_grads: Tensor, start: int, middle: int) -> None:
        """Make the views of the flat tensors: downs from element `start` on, ups from `middle`."""
        end = middle + self.up_numel
        spatial = self.specs[0].down_shape[1:]
        shape = (len(self.specs) * self.rank, *spatial)
        self.down = weights[start : start + self.down_numel].view(shape).detach()
        self.down_grad = pass_grads[start : start + self.down_numel].view(shape[0], -1)
        self.up = weights[middle:end].detach()
        self.down_t = self.down.detach().flatten(1).t()
        self.up_groups = tuple(_up_groups(self.specs, self.up, pass_grads[middle:end]))
        up_grad = pass_grads[middle:end]
        for leaf, grad in ((self.down, self.down_grad.view(shape)), (self.up, up_grad)):
            leaf.requires_grad_(True)
            leaf.grad = grad  # autograd adds to a gradient in place, so into the flat tensor

    def matrices(self) -> Iterator[tuple[int, int]]:
        """The element counts of each module's (down, up)."""
        for spec in self.specs:
            yield math.prod(spec.down_shape), math.prod(spec.up_shape)


@dataclass(frozen=True, kw_only=True)
class Span:
    """The first elements of a site's downs and ups in the flat tensors."""

    segment: str
    site: LoraSite
    down: int
    up: int


class LoraBank:
    """All LoRA weights of a run: `add` every site, then `allocate`.

    `weights` are fp32, since updates are smaller than what bf16 resolves; `compute` is what the
    models multiply with (the same tensor in fp32 runs, else a copy in the run's precision).
    `pass_grads` are the gradients of one pass, in the precision of `compute`, and `grads` their sum
    over the passes of a step, in fp32 (the same tensor in fp32 runs). Segments are the parts that
    have their own learning rate: `text_encoder`, `text_encoder_2`, `unet`.

    With `small_below` matrices begin at the blocks of an 8-bit optimizer, and those with fewer
    elements, whose states have 32 bits, are at the end of each segment.
    """

    weights: Tensor
    compute: Tensor
    grads: Tensor
    pass_grads: Tensor

    def __init__(self, small_below: int | None = None) -> None:
        self._sites: dict[str, list[LoraSite]] = {}
        self.small_below = small_below
        self._alignment = _ALIGNMENT if small_below is None else BLOCK
        self.first_pass = True
        """Whether the next backward pass overwrites `pass_grads` instead of adding to them."""
        self.num_samples = 1
        """Pictures in the current pass; rank dropout has its own ranks for each."""
        self.evaluating = False
        """Whether the loss is only measured (validation): without dropout."""

    def add(self, segment: str, specs: tuple[LoraSpec, ...]) -> LoraSite:
        """A new site for `specs`, which must have equal ranks and inputs."""
        assert len({(spec.rank, spec.in_features, spec.kernel) for spec in specs}) == 1
        site = LoraSite(self, specs)
        self._sites.setdefault(segment, []).append(site)
        return site

    def allocate(self, device: torch.device, dtype: torch.dtype) -> None:
        """Make the flat tensors, and every site's views of them. `dtype` is the run's precision."""
        spans = self.spans()
        total = sum(span.stop - span.start for span in self.segments().values())
        self.weights = torch.zeros(total, device=device)
        self.grads = torch.zeros(total, device=device)
        low = dtype != torch.float32
        self.compute = torch.zeros(total, device=device, dtype=dtype) if low else self.weights
        self.pass_grads = torch.zeros(total, device=device, dtype=dtype) if low else self.grads
        for span in spans:
            span.site.bind(self.compute, self.pass_grads, span.down, span.up)

    def sites(self) -> Iterator[LoraSite]:
        for sites in self._sites.values():
            yield from sites

    def specs(self) -> Iterator[LoraSpec]:
        for site in self.sites():
            yield from site.specs

    def segments(self) -> dict[str, slice]:
        """Each segment's slice of the flat tensors, in order."""
        found: dict[str, slice] = {}
        start = 0
        for name, sites in self._sites.items():
            sizes = (
                self._aligned(site.down_numel) + self._aligned(site.up_numel) for site in sites
            )
            end = start + sum(sizes)
            found[name] = slice(start, end)
            start = end
        return found

    def spans(self) -> list[Span]:
        """The position of every site, in the order of the sites."""
        found: list[Span] = []
        start = 0
        for segment, sites in self._sites.items():
            parts = [(site, is_up) for site in sites for is_up in (False, True)]
            starts: dict[tuple[LoraSite, bool], int] = {}
            for site, is_up in sorted(parts, key=self._comes_last):
                starts[site, is_up] = start
                start += self._aligned(site.up_numel if is_up else site.down_numel)
            found += [
                Span(segment=segment, site=site, down=starts[site, False], up=starts[site, True])
                for site in sites
            ]
        return found

    def matrices(self) -> Iterator[tuple[str, int, int]]:
        """(segment, first element, element count) of every matrix, in the flat tensors' order."""
        found: list[tuple[str, int, int]] = []
        for span in self.spans():
            down, up = span.down, span.up
            for down_size, up_size in span.site.matrices():
                found += [(span.segment, down, down_size), (span.segment, up, up_size)]
                down, up = down + down_size, up + up_size
        yield from sorted(found, key=lambda each: each[1])

    def named_views(self, flat: Tensor) -> Iterator[tuple[LoraSpec, Tensor, Tensor]]:
        """(spec, lora_down, lora_up) of each module as views of `flat`, in the file's shapes."""
        for span in self.spans():
            down, up = span.down, span.up
            sizes = zip(span.site.specs, span.site.matrices(), strict=True)
            for spec, (down_size, up_size) in sizes:
                yield (
                    spec,
                    flat[down : down + down_size].view(spec.down_shape),
                    flat[up : up + up_size].view(spec.up_shape),
                )
                down, up = down + down_size, up + up_size

    def ups(self) -> Iterator[tuple[str, Tensor]]:
        """(segment, all `lora_up` values of a site), flat."""
        for span in self.spans():
            yield span.segment, self.weights[span.up : span.up + span.site.up_numel]

    def _comes_last(self, part: tuple[LoraSite, bool]) -> bool:
        """Whether a site's downs (or ups) are all below `small_below`."""
        site, is_up = part
        largest = max(sizes[is_up] for sizes in site.matrices())
        return self.small_below is not None and largest < self.small_below

    def _aligned(self, size: int) -> int:
        return -(-size // self._alignment) * self._alignment

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Initial values as in sd-scripts: down uniform (Kaiming, a = sqrt 5), up zero.

        Kaiming's bound with a = sqrt(5) is 1 / sqrt(fan_in). Each module's generator is seeded by
        its name, so its values do not depend on which other modules there are.
        """
        for spec, down, up in self.named_views(self.weights):
            bound = 1.0 / math.sqrt(math.prod(spec.down_shape[1:]))
            start = torch.empty(spec.down_shape)
            start.uniform_(-bound, bound, generator=torch_rng(seed, "lora", spec.name))
            down.copy_(start)
            up.zero_()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights to `compute` after they have changed."""
        if self.compute is not self.weights:
            self.compute.copy_(self.weights)

    @torch.no_grad()
    def begin_pass(self, *, first: bool, num_samples: int = 1) -> None:
        """Before a forward-backward pass; `first` is the first one of an optimizer step."""
        self.num_samples = num_samples
        overwrites = first or self.pass_grads is not self.grads
        # Autograd only adds to gradients: where a site uses it, all are set to zero instead.
        self.first_pass = overwrites and not any(site.uses_autograd for site in self.sites())
        if overwrites and not self.first_pass:
            self.pass_grads.zero_()

    @torch.no_grad()
    def end_pass(self, *, first: bool) -> None:
        """After a backward pass: add its gradients to those of the step, in fp32."""
        if self.pass_grads is self.grads:
            return
        if first:
            self.grads.copy_(self.pass_grads)
        else:
            self.grads.add_(self.pass_grads)

    @torch.no_grad()
    def skip_pass(self, *, first: bool) -> None:
        """A pass without samples on this process: it adds nothing."""
        if first:
            self.grads.zero_()


def _up_groups(specs: tuple[LoraSpec, ...], up: Tensor, up_grad: Tensor) -> Iterator[UpGroup]:
    rank, row, column, inner, first = specs[0].rank, 0, 0, 0, 0
    while first < len(specs):
        out = specs[first].out_features
        last = first
        while last < len(specs) and specs[last].out_features == out:
            last += 1
        count = last - first
        end = row + count * out * rank
        ups = up[row:end].view(count, out, rank).detach()
        yield UpGroup(
            count=count,
            out=out,
            columns=(column, column + count * out),
            ranks=(inner, inner + count * rank),
            up=ups,
            up_t=ups.mT,
            single=ups[0],
            single_t=ups[0].t(),
            up_grad=up_grad[row:end].view(count, out, rank),
        )
        row, column, inner, first = end, column + count * out, inner + count * rank, last
