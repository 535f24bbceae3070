"""Dropout of a LoRA's inner values, ranks and whole modules.

As in sd-scripts' `networks.lora`: random in every forward pass, for each module even where several
are computed together, and for each rank and sample; the remaining ranks are scaled up. The
generator is torch's global one, which the loop seeds before each pass.
"""
# pyright: reportUnknownMemberType=false

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Dropouts:
    """The probabilities that an inner value, a rank, or a whole module is dropped in a pass."""

    inner: float = 0.0
    rank: float = 0.0
    module: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.inner or self.rank or self.module)

    def modules_trained(self, count: int) -> list[bool]:
        """Whether each of `count` modules is used in this pass. Random numbers of the CPU, since
        a decision of the host would have to wait for the device's."""
        if not self.module:
            return [True] * count
        return [float(torch.rand(())) >= self.module for _ in range(count)]

    def drop(self, inner: Tensor, num_samples: int) -> Tensor:
        """Inner values [tokens, ranks] or [samples, ranks, height, width], some of them zero.

        Tokens are those of `num_samples` samples, one after the other.
        """
        if self.inner:
            inner = functional.dropout(inner, p=self.inner)
        if not self.rank:
            return inner
        survives = torch.rand(num_samples, inner.shape[1], device=inner.device) > self.rank
        if inner.ndim == 2:
            survives = survives.repeat_interleave(inner.shape[0] // num_samples, dim=0)
        else:
            survives = survives[:, :, None, None]
        return inner * survives

    @property
    def scale(self) -> float:
        """The factor that makes up for dropped ranks."""
        return 1.0 / (1.0 - self.rank) if self.rank else 1.0


NO_DROPOUTS = Dropouts()
