"""A step whose gradients are not finite, undone on the device.

torch's fused optimizers take a flag on the device (`found_inf`) with which they change nothing. The
others get gradients of zero instead, which still decay their states and weights and count a step.
So what they have changed is restored by a selection on the device, and the host does not wait for
the flag. What an optimizer has in Python (its count of steps) is restored before the next step,
when the flag's copy has arrived: by then the card is busy with the passes of that step.
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
"""Up to so many tensors are restored by a `torch.where` each. More of them (Adafactor
has several for each matrix) are restored by three `foreach` operations, as
tensor * flag + copy * (1 - flag): exact, since gradients of zero have left all numbers finite."""


@dataclass
class Snapshot:
    """An optimizer before a step. `weights` are the bank's flat weights, `values` each parameter's
    states in Python, `tensors` and `copies` the keys and copies of its states that are tensors. A
    parameter that had no state yet has no `values`."""

    weights: Tensor
    values: dict[Any, dict[str, Any]] = field(default_factory=dict[Any, dict[str, Any]])
    tensors: list[tuple[Any, str]] = field(default_factory=list[tuple[Any, str]])
    copies: list[Tensor] = field(default_factory=list[Tensor])


class Undo:
    """Restores what a step has changed: call `snapshot`, the step, then `restore_unless`."""

    def __init__(self, optimizer: Any, weights: Tensor) -> None:
        self._optimizer = optimizer
        self._weights = weights
        self._values: dict[Any, dict[str, Any]] = {}
        self._flag: Tensor | None = None
        self._arrived: Any = None

    @torch.no_grad()
    def snapshot(self) -> Snapshot:
        """A copy of what the next step may change."""
        self.settle()
        found = Snapshot(self._weights.clone())
        for parameter in self._parameters():
            state = self._optimizer.state.get(parameter)
            if not state:
                continue
            found.values[parameter] = {k: v for k, v in state.items() if not torch.is_tensor(v)}
            found.tensors += [(parameter, k) for k, v in state.items() if torch.is_tensor(v)]
        found.copies = _copied(self._present(found))
        return found

    @torch.no_grad()
    def restore_unless(self, snapshot: Snapshot, finite: Tensor) -> None:
        """Restore weights and state tensors if `finite`, a boolean on the device, is false."""
        torch.where(finite, self._weights, snapshot.weights, out=self._weights)
        _put_back(self._present(snapshot), snapshot.copies, finite)
        self._values, self._flag = snapshot.values, finite
        if finite.device.type == "cuda":
            self._flag = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._flag.copy_(finite, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def settle(self) -> None:
        """Restore the optimizer's Python values if the last step was not finite."""
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

    def _present(self, snapshot: Snapshot) -> list[Tensor]:
        return [self._optimizer.state[parameter][key] for parameter, key in snapshot.tensors]


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
