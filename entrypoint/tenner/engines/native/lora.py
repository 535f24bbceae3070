"""The LoRA's weights: which modules have them, how they start, and where they lie in memory.

The network is that of sd-scripts' `networks.lora`: a `lora_down` and a `lora_up` matrix beside
each adapted module, `alpha / dim` as scale, the same names and shapes in the file. How it is held
is our own, and is why peft is not in the hot path: all weights are one flat tensor, and so are
their gradients. The optimizer then works on one tensor for each learning rate instead of hundreds,
clipping and the all-reduce are one operation each, low-precision copies are made in one
operation, and the backward pass writes gradients where they belong instead of handing them on.
Modules that read the same input (query, key, value) lie side by side and share one product.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tenner.engines.native.rng import torch_rng

# Elements; keeps every matrix on a boundary that a GPU's matrix units read fast.
_ALIGNMENT = 64
BLOCK = 256
"""Numbers that an 8-bit optimizer scales together."""


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
class Run:
    """Modules of a site that have equal widths and lie next to each other.

    `up` is [count, out, rank], `sink` its gradient; `columns` is where their output stands in
    the site's output and `ranks` where their inner values stand in [tokens, count * rank].
    """

    count: int
    out: int
    columns: tuple[int, int]
    ranks: tuple[int, int]
    up: Tensor
    sink: Tensor
    up_t: Tensor
    """`up` with its matrices turned; views are made once, not at every step."""
    single: Tensor
    single_t: Tensor


class LoraSite:
    """Modules that read one input, as one: `down` is [count * rank, in], the ups follow in runs.

    `down` and `up` are the leaves of autograd's graph; `down_sink` and the runs' sinks are views
    of the flat gradient.
    """

    down: Tensor
    up: Tensor
    down_t: Tensor
    down_sink: Tensor
    runs: tuple[Run, ...]

    def __init__(self, bank: "LoraBank", specs: tuple[LoraSpec, ...]) -> None:
        self.bank = bank
        self.specs = specs
        self.rank = specs[0].rank
        self.scale = specs[0].scale
        self.kernel = specs[0].kernel
        self.plain = False
        """True leaves gradients to autograd (convolutions, dropout, compiled blocks)."""

    @property
    def down_numel(self) -> int:
        return sum(math.prod(spec.down_shape) for spec in self.specs)

    @property
    def up_numel(self) -> int:
        return sum(math.prod(spec.up_shape) for spec in self.specs)

    def bind(self, weights: Tensor, sinks: Tensor, start: int, middle: int) -> None:
        """Take views of the flat tensors: downs from element `start` on, ups from `middle`."""
        end = middle + self.up_numel
        spatial = self.specs[0].down_shape[1:]
        shape = (len(self.specs) * self.rank, *spatial)
        self.down = weights[start : start + self.down_numel].view(shape).detach()
        self.down_sink = sinks[start : start + self.down_numel].view(shape[0], -1)
        self.up = weights[middle:end].detach()
        self.down_t = self.down.detach().flatten(1).t()
        self.runs = tuple(_runs(self.specs, self.up, sinks[middle:end]))
        for leaf, sink in ((self.down, self.down_sink.view(shape)), (self.up, sinks[middle:end])):
            leaf.requires_grad_(True)
            leaf.grad = sink

    def matrices(self) -> Iterator[tuple[int, int]]:
        """Numbers of each module's (down, up)."""
        for spec in self.specs:
            yield math.prod(spec.down_shape), math.prod(spec.up_shape)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where a site's downs and ups begin in the flat tensors."""

    segment: str
    site: LoraSite
    down: int
    up: int


class LoraBank:
    """All LoRA weights of a run. Ask for sites, `allocate`, then train.

    `weights` are fp32; `compute` is what the models multiply with (the same tensor in fp32
    runs, else a copy in the run's precision); `grads` are fp32 and `sinks` what the backward
    pass writes (again the same tensor in fp32 runs). Segments are the parts with a learning rate
    of their own.

    With `small_below` the tensors lie as an 8-bit optimizer takes them: on boundaries of its
    blocks, and in each segment matrices of fewer numbers, whose states have 32 bits, at the end.
    """

    weights: Tensor
    compute: Tensor
    grads: Tensor
    sinks: Tensor

    def __init__(self, small_below: int | None = None) -> None:
        self._sites: dict[str, list[LoraSite]] = {}
        self.small_below = small_below
        self._alignment = _ALIGNMENT if small_below is None else BLOCK
        self.first_pass = True
        """Whether the next backward pass overwrites the sinks instead of adding to them."""
        self.num_samples = 1
        """Pictures in the present pass; rank dropout draws for each."""
        self.evaluating = False
        """Nothing is dropped while the network is only looked at."""

    def add(self, segment: str, specs: tuple[LoraSpec, ...]) -> LoraSite:
        """A site for `specs`, which must have equal ranks and inputs."""
        assert len({(spec.rank, spec.in_features, spec.kernel) for spec in specs}) == 1
        site = LoraSite(self, specs)
        self._sites.setdefault(segment, []).append(site)
        return site

    def allocate(self, device: torch.device, dtype: torch.dtype) -> None:
        """Make the flat tensors and bind every site. `dtype` is the run's compute precision."""
        spans = self.spans()
        total = sum(span.stop - span.start for span in self.segments().values())
        self.weights = torch.zeros(total, device=device)
        self.grads = torch.zeros(total, device=device)
        low = dtype != torch.float32
        self.compute = torch.zeros(total, device=device, dtype=dtype) if low else self.weights
        self.sinks = torch.zeros(total, device=device, dtype=dtype) if low else self.grads
        for span in spans:
            span.site.bind(self.compute, self.sinks, span.down, span.up)

    def sites(self) -> Iterator[LoraSite]:
        for sites in self._sites.values():
            yield from sites

    def specs(self) -> Iterator[LoraSpec]:
        for site in self.sites():
            yield from site.specs

    def segments(self) -> dict[str, slice]:
        """Where each segment lies in the flat tensors, in order."""
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
        """Where every site lies, in the order of the sites."""
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
        """(segment, first number, numbers) of every matrix, in the order of the flat tensors."""
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
        """(segment, all `lora_up` numbers of a site), flat."""
        for span in self.spans():
            yield span.segment, self.weights[span.up : span.up + span.site.up_numel]

    def _comes_last(self, part: tuple[LoraSite, bool]) -> bool:
        """Whether all matrices of a site's downs (or ups) are small ones."""
        site, is_up = part
        largest = max(sizes[is_up] for sizes in site.matrices())
        return self.small_below is not None and largest < self.small_below

    def _aligned(self, size: int) -> int:
        return -(-size // self._alignment) * self._alignment

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Start values as in sd-scripts: down uniform (Kaiming, a = sqrt 5), up zero.

        Kaiming's bound with a = sqrt(5) is 1 / sqrt(fan_in). Each module draws by its own name,
        so a start does not depend on which other modules there are.
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
        """Bring the compute copy up to date after the weights changed."""
        if self.compute is not self.weights:
            self.compute.copy_(self.weights)

    @torch.no_grad()
    def begin_pass(self, *, first: bool, num_samples: int = 1) -> None:
        """Before a forward-backward pass; `first` is the first one of an optimizer step."""
        self.num_samples = num_samples
        first_in_sinks = first or self.sinks is not self.grads
        self.first_pass = first_in_sinks and not any(site.plain for site in self.sites())
        if first_in_sinks and not self.first_pass:
            self.sinks.zero_()

    @torch.no_grad()
    def end_pass(self, *, first: bool) -> None:
        """After a backward pass: add what it found to the fp32 gradients."""
        if self.sinks is self.grads:
            return
        if first:
            self.grads.copy_(self.sinks)
        else:
            self.grads.add_(self.sinks)

    @torch.no_grad()
    def skip_pass(self, *, first: bool) -> None:
        """A pass without samples on this process: it adds nothing."""
        if first:
            self.grads.zero_()


def _runs(specs: tuple[LoraSpec, ...], up: Tensor, sink: Tensor) -> Iterator[Run]:
    rank, row, column, inner, first = specs[0].rank, 0, 0, 0, 0
    while first < len(specs):
        out = specs[first].out_features
        last = first
        while last < len(specs) and specs[last].out_features == out:
            last += 1
        count = last - first
        end = row + count * out * rank
        ups = up[row:end].view(count, out, rank).detach()
        yield Run(
            count=count,
            out=out,
            columns=(column, column + count * out),
            ranks=(inner, inner + count * rank),
            up=ups,
            up_t=ups.mT,
            single=ups[0],
            single_t=ups[0].t(),
            sink=sink[row:end].view(count, out, rank),
        )
        row, column, inner, first = end, column + count * out, inner + count * rank, last
