"""Makes layers of a model's tensors, one by one, each with its LoRA where it has one.

Which modules have a LoRA is sd-scripts' rule: in the U-Net every linear layer and 1x1
convolution inside the transformers, and, where `conv_dim` is given, also those of the residual
blocks (with `network_dim`) and every 3x3 convolution (with `conv_dim`); in a text encoder every
linear layer of attention and MLP.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tenner.core.train_job import conv_alpha_of
from tenner.engines.native.dropouts import NO_DROPOUTS, Dropouts
from tenner.engines.native.layers import Conv, GroupNorm, LayerNorm
from tenner.engines.native.lora import LoraBank, LoraSite, LoraSpec
from tenner.engines.native.projection import Projection

GetTensor = Callable[[str, Callable[[], Tensor]], Tensor]
"""Returns the frozen tensor of a name, calling the function where it is not cached."""


def read_every_time(name: str, make: Callable[[], Tensor]) -> Tensor:
    """A `GetTensor` without a cache, for a process that trains once."""
    del name
    return make()


def uncached(part: str) -> GetTensor:
    """`read_every_time` for every part of a base."""
    del part
    return read_every_time


@dataclass(frozen=True, kw_only=True)
class LoraPlan:
    """The LoRA of one model: its segment of the bank, its ranks and the names of its modules.

    `name_of` turns a module's path into its name in the file. Without `conv_dim` residual blocks
    have no LoRA. `uses_autograd` is `LoraSite.uses_autograd`.
    """

    bank: LoraBank
    segment: str
    name_of: Callable[[str], str]
    dim: int
    alpha: float
    conv_dim: int | None = None
    conv_alpha: float | None = None
    dropouts: Dropouts = NO_DROPOUTS
    uses_autograd: bool = False


class Parts:
    """Makes layers of `tensors`, moved to `device` and `dtype` one by one.

    `adapts` decides by a module's path whether it has a LoRA of `plan`. The methods raise KeyError
    naming a tensor that the file lacks.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        device: torch.device,
        dtype: torch.dtype,
        channels_last: bool = True,
        plan: LoraPlan | None = None,
        adapts: Callable[[str], bool] = lambda name: True,
        get: GetTensor = read_every_time,
    ) -> None:
        self._tensors = tensors
        self._device = device
        self._dtype = dtype
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._plan = plan
        self._adapts = adapts
        self._get = get

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self._tensors

    def tensor(self, name: str) -> Tensor:
        """The tensor on the device. Always a copy: the system may drop pages that are mapped from
        a file, and would read them from the disk again at every step."""
        return self._get(name, lambda: self._read(name))

    def _read(self, name: str) -> Tensor:
        return self._tensors[name].to(self._device, self._dtype, copy=True)

    def optional(self, name: str) -> Tensor | None:
        return self.tensor(name) if name in self._tensors else None

    def conv(self, name: str, *, stride: int = 1, padding: int = 0, bias: bool = True) -> Conv:
        weight = self._get(
            f"conv {name}",
            lambda: self._read(f"{name}.weight").to(memory_format=self._format),
        )
        found = Conv(
            weight,
            self.optional(f"{name}.bias") if bias else None,
            stride=stride,
            padding=padding,
            site=self._site([name]),
        )
        if self._plan is not None:
            found.dropouts = self._plan.dropouts
        return found

    def projection(self, name: str) -> Projection:
        """A linear layer; a 1x1 convolution is one too."""
        return self.stacked_projection([name])

    def stacked_projection(
        self, names: Sequence[str], *, bias_of: Sequence[str] = ()
    ) -> Projection:
        """Layers that read the same input as one layer, whose output is theirs concatenated.

        `bias_of` names modules whose biases are added to those of the layers.
        """
        weight = self._get(
            f"rows {' '.join(names)}",
            lambda: _joined([self._read(f"{name}.weight").flatten(1) for name in names]),
        )
        found = Projection(weight, self._bias(names, bias_of), self._site(names))
        if self._plan is not None:
            found.dropouts = self._plan.dropouts
        return found

    def _bias(self, names: Sequence[str], bias_of: Sequence[str]) -> Tensor | None:
        present = [f"{name}.bias" for name in names if f"{name}.bias" in self._tensors]
        if f"{names[0]}.bias" not in present:
            return None

        def make() -> Tensor:
            bias = _joined([self._read(name) for name in present])
            if bias_of:
                bias = bias + _joined([self._read(f"{name}.bias") for name in bias_of])
            return bias

        return self._get(f"bias {' '.join([*present, *bias_of])}", make)

    def group_norm(self, name: str, num_groups: int, eps: float) -> GroupNorm:
        weight, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        return GroupNorm(weight, bias, num_groups, eps)

    def layer_norm(self, name: str, eps: float = 1e-5) -> LayerNorm:
        return LayerNorm(self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), eps)

    def _site(self, names: Sequence[str]) -> LoraSite | None:
        specs = [self._spec(name, self._tensors[f"{name}.weight"]) for name in names]
        found = tuple(spec for spec in specs if spec is not None)
        if not found or self._plan is None:
            return None
        site = self._plan.bank.add(self._plan.segment, found)
        site.uses_autograd = self._plan.uses_autograd or found[0].kernel == (3, 3)
        return site

    def _spec(self, name: str, weight: Tensor) -> LoraSpec | None:
        plan = self._plan
        if plan is None or not self._adapts(name):
            return None
        kernel = tuple(weight.shape[2:])
        rank, alpha = plan.dim, plan.alpha
        if kernel == (3, 3):
            if plan.conv_dim is None:
                return None
            rank, alpha = plan.conv_dim, conv_alpha_of(plan.conv_dim, plan.conv_alpha)
        return LoraSpec(
            name=plan.name_of(name),
            in_features=weight.shape[1],
            out_features=weight.shape[0],
            rank=rank,
            alpha=alpha or rank,
            kernel=kernel,
        )


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
