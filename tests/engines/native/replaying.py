"""A stand-in for CUDA graphs on a CPU: it runs the same function at each replay, and refuses what a
graph would not repeat.

A graph repeats kernels on the addresses and with the numbers that were captured. So a replay has to
have the same operations, with the same scalars, on the same outer memory as the capture; it may not
read a number back, take one from the host, or seed. Inputs are overwritten with NaN after each
replay, so that one that is not copied in again changes the result.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NOT_IN_A_GRAPH = ("_local_scalar_dense", "lift_fresh", "nonzero", "equal", "is_nonzero")


class NotStaticError(Exception):
    """A graph would not have done this."""


class Operations(TorchDispatchMode):
    """All operations of a run, with their scalars and the addresses of outer memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, ...]] = []
        self._inner: set[int] = set()
        self._alive: list[torch.Tensor] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if function.overloadpacket.__name__ in NOT_IN_A_GRAPH:
            raise NotStaticError(name)
        leaves = tree_leaves((args, kwargs or {}))
        given = [each for each in leaves if isinstance(each, torch.Tensor)]
        scalars = [repr(each) for each in leaves if not isinstance(each, torch.Tensor)]
        outer = {each.untyped_storage().data_ptr() for each in given} - self._inner
        described = [self._described(each) for each in given]
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor) and each.untyped_storage().data_ptr() not in outer:
                self._inner.add(each.untyped_storage().data_ptr())
                self._alive.append(each)
        self.found.append((name, scalars, described))
        return result

    def _described(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        inner = tensor.untyped_storage().data_ptr() in self._inner
        address = "inner" if inner else tensor.data_ptr()
        return (address, tuple(tensor.shape), tensor.dtype, tensor.stride())


class Replaying:
    """Captures by running, replays by running again."""

    def __init__(self) -> None:
        self.num_warm_ups = 0
        self.num_captured = 0
        self.num_replays = 0
        self.inputs: list[torch.Tensor] = []
        """Overwritten after each replay."""

    def warm_up(self, run: Callable[[], object]) -> None:
        self.num_warm_ups += 1
        run()

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        self.num_captured += 1
        captured = recorded(run)

        def replay() -> None:
            self.num_replays += 1
            again = recorded(run)
            for number, (before, now) in enumerate(zip(captured, again, strict=False)):
                if before != now:
                    raise NotStaticError(f"operation {number}: {before} was captured, {now} came")
            if len(captured) != len(again):
                raise NotStaticError(f"{len(captured)} operations were captured, {len(again)} came")
            for each in self.inputs:
                each.fill_(float("nan") if each.is_floating_point() else 2**40)

        return replay


def recorded(run: Callable[[], object]) -> list[tuple[Any, ...]]:
    """The operations of a run that may not seed."""

    def refuse(*_: object) -> None:
        raise NotStaticError("manual_seed")

    with pytest.MonkeyPatch.context() as patch, Operations() as operations:
        patch.setattr(torch, "manual_seed", refuse)
        run()
    return operations.found
