"""The peak of a card's memory over the steps.

The VAE is not in it, nor cudnn's search for the fastest convolutions in the first step, which tries
workspaces that no later step needs. So the peak is reset after the first step. It is reported after
the second, which has allocated all that a step needs, and at the end.
"""
# pyright: reportUnknownMemberType=false

from collections.abc import Callable

import torch

from tenner.core.events import Event, MemoryUsed


class PeakMemory:
    """Measures the steps of this process. On a CPU it does nothing."""

    def __init__(self, device: torch.device, emit: Callable[[Event], object]) -> None:
        self._device = device
        self._emit = emit
        self._num_steps = 0
        self.graph_bytes = 0
        """The peak in CUDA graphs' captures: the allocator does not count replays."""

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
        """Report the peak so far, after the second step or later."""
        if self._device.type == "cuda" and self._num_steps > 1:
            allocated = torch.cuda.max_memory_allocated(self._device)
            self._emit(
                MemoryUsed(
                    step=step,
                    allocated_bytes=max(allocated, self.graph_bytes),
                    reserved_bytes=torch.cuda.max_memory_reserved(self._device),
                )
            )
