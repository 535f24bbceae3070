"""What a LoRA leaves out at random while it is trained: inner values, ranks, whole modules.

As in sd-scripts' `networks.lora`: chances are drawn anew in every forward pass, a module's for
itself even where it is computed beside others, a rank's for each sample; what is left of the ranks
is scaled up.
"""
# pyright: reportUnknownMemberType=false

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Dropouts:
    """Chances that an inner value, a rank, or a whole module is left out in one pass."""

    inner: float = 0.0
    rank: float = 0.0
    module: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.inner or self.rank or self.module)

    def modules_trained(self, count: int) -> list[bool]:
        """For each of `count` modules whether it is there in this pass. Drawn on the CPU: no
        device is waited for."""
        if not self.module:
            return [True] * count
        return [float(torch.rand(())) >= self.module for _ in range(count)]

    def thinned(self, inner: Tensor, num_samples: int) -> Tensor:
        """Inner values [tokens, ranks] or [samples, ranks, height, width] with some left out.

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
        """What makes up for the ranks that are left out."""
        return 1.0 / (1.0 - self.rank) if self.rank else 1.0


NO_DROPOUTS = Dropouts()
