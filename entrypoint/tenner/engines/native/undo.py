"""A step whose gradients are not finite, undone on the device.

torch's fused optimizers take a flag that leaves all as it is. The others are given gradients of
zero instead, which still decay their states and weights and count a step; so what they have
changed is put back where the flag says so, and nothing waits for the flag on its way to the host.
What an optimizer keeps in Python (its count of steps) is put back when the flag has arrived, before
the next step needs it: by then the card has long been working on that one.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateImportUsage=false
# pyright: reportPrivateUsage=false

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_FEW = 64
"""So many tensors are put back one by one, by selection; more of them at once, as sums with one
part times zero: all numbers are finite there, as the gradients were set to zero."""


@dataclass
class Before:
    """An optimizer as it was before a step. A parameter that had no state yet has no `values`."""

    weights: Tensor
    values: dict[Any, dict[str, Any]] = field(default_factory=dict[Any, dict[str, Any]])
    tensors: list[tuple[Any, str]] = field(default_factory=list[tuple[Any, str]])
    copies: list[Tensor] = field(default_factory=list[Tensor])


class Undo:
    """Puts back what a step has changed. Around each step: `before`, the step, `after`."""

    def __init__(self, optimizer: Any, weights: Tensor) -> None:
        self._optimizer = optimizer
        self._weights = weights
        self._values: dict[Any, dict[str, Any]] = {}
        self._flag: Tensor | None = None
        self._arrived: Any = None

    @torch.no_grad()
    def before(self) -> Before:
        """What the coming step may change, copied."""
        self.settle()
        found = Before(self._weights.clone())
        for parameter in self._parameters():
            state = self._optimizer.state.get(parameter)
            if not state:
                continue
            found.values[parameter] = {k: v for k, v in state.items() if not torch.is_tensor(v)}
            found.tensors += [(parameter, k) for k, v in state.items() if torch.is_tensor(v)]
        found.copies = _copied(self._present(found))
        return found

    @torch.no_grad()
    def after(self, before: Before, finite: Tensor) -> None:
        """Put weights and state tensors back where `finite` (a flag on the device) is false."""
        torch.where(finite, self._weights, before.weights, out=self._weights)
        _put_back(self._present(before), before.copies, finite)
        self._values, self._flag = before.values, finite
        if finite.device.type == "cuda":
            self._flag = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._flag.copy_(finite, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def settle(self) -> None:
        """Put the last step's Python values back if it was not finite."""
        if self._flag is None:
            return
        if self._arrived is not None:
            self._arrived.synchronize()
        finite, self._flag = bool(self._flag), None
        if finite:
            return
        for parameter in self._parameters():
            if parameter in self._values:
                self._optimizer.state[parameter].update(self._values[parameter])
            else:
                self._optimizer.state.pop(parameter, None)

    def _parameters(self) -> Iterator[Any]:
        for group in self._optimizer.param_groups:
            yield from group["params"]

    def _present(self, before: Before) -> list[Tensor]:
        return [self._optimizer.state[parameter][key] for parameter, key in before.tensors]


def _copied(tensors: list[Tensor]) -> list[Tensor]:
    if len(tensors) <= _FEW:
        return [each.clone() for each in tensors]
    return list(torch._foreach_mul(tensors, 1.0))


def _put_back(tensors: list[Tensor], copies: list[Tensor], finite: Tensor) -> None:
    if len(tensors) <= _FEW:
        for tensor, copied in zip(tensors, copies, strict=True):
            torch.where(finite, tensor, copied, out=tensor)
        return
    restored = finite.to(torch.float32)
    torch._foreach_mul_(tensors, restored)
    torch._foreach_mul_(copies, 1.0 - restored)
    torch._foreach_add_(tensors, copies)
