"""How much of a card's memory the steps take at their peak.

What comes before them is not in it: the VAE, and the search for the fastest convolutions in the
first step, which tries workspaces that no later step needs. So counting starts anew after the first
step, and is reported after the second (all that a step takes is there by then) and at the end.
"""
# pyright: reportUnknownMemberType=false

from collections.abc import Callable

import torch

from tenner.core.events import Event, MemoryUsed


class PeakMemory:
    """Follows the steps of this process. On a CPU it does nothing."""

    def __init__(self, device: torch.device, emit: Callable[[Event], object]) -> None:
        self._device = device
        self._emit = emit
        self._num_steps = 0
        self.least_bytes = 0
        """What CUDA graphs took when they were captured; the allocator counts a replay as none."""

    def after_step(self, step: int) -> None:
        """`step` (from 1, over all attempts) was queued."""
        if self._device.type != "cuda":
            return
        self._num_steps += 1
        if self._num_steps == 1:
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._num_steps == 2:
            torch.cuda.synchronize(self._device)
            self.report(step)

    def report(self, step: int) -> None:
        """Tell of the peak so far, where more than one step was made."""
        if self._device.type == "cuda" and self._num_steps > 1:
            allocated = torch.cuda.max_memory_allocated(self._device)
            self._emit(
                MemoryUsed(
                    step=step,
                    allocated_bytes=max(allocated, self.least_bytes),
                    reserved_bytes=torch.cuda.max_memory_reserved(self._device),
                )
            )
