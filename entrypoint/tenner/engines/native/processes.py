"""The processes of a run: each one's device, and sums over all of them.

Several processes are joined by accelerate, which reads the environment that its launcher (or
torchrun) has set. One process does not import it.
"""
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

TIMEOUT = timedelta(minutes=30)
"""How long processes wait for the main one, which encodes all pictures and saves."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> None:
        """Replace `values` by their sum over all processes."""
        if self.count > 1:
            dist.all_reduce(values)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        if self.count == 1:
            return flag
        found = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(found)
        return bool(found.item())

    def close(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()


def join_processes() -> Processes:
    """This process among all of the run's."""
    cuda = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(rank=0, count=1, device=torch.device("cuda" if cuda else "cpu"))
    from accelerate import PartialState

    state = PartialState(cpu=not cuda, timeout=TIMEOUT)
    return Processes(
        rank=state.process_index, count=state.num_processes, device=torch.device(str(state.device))
    )
