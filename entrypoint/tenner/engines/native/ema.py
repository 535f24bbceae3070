"""The exponential moving average of a LoRA's weights, with less noise than those of the last step.

Both factors of each module are averaged, as OneTrainer and diffusers' training scripts do.
"""

import torch
from torch import Tensor


class Ema:
    """An exponential moving average, in the weights' own precision and on their device.

    It begins with the weights after the first step, and the decay rises to `decay` as diffusers'
    `EMAModel` does it: min(decay, (1 + n) / (10 + n)) in step n, so that a run of a few hundred
    steps is not averaged with its own beginning.
    """

    def __init__(self, weights: Tensor, decay: float) -> None:
        self.weights = weights.detach().clone()
        self._decay = decay

    @torch.no_grad()
    def update(self, weights: Tensor, step: int) -> None:
        """Take in the weights after step `step` (from 1)."""
        if step <= 1:
            self.weights.copy_(weights)
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        self.weights.lerp_(weights.detach(), 1.0 - decay)
