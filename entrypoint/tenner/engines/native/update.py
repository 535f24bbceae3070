"""From gradients to new weights: unscale, clip, skip what is not finite, step, schedule.

All decisions are taken on the device. Nothing waits for a number on its way to the host, so the
next step's work is queued while this one still runs.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Any

import torch
from torch import Tensor

from tenner.core.train_job import TrainJob
from tenner.engines.native.lora import LoraBank
from tenner.engines.native.lr import lr_factor
from tenner.engines.native.optimizers import base_rates, make_optimizer
from tenner.engines.native.undo import Undo

# Loss scaling for fp16, with the numbers of torch.amp.GradScaler.
_FIRST_SCALE = 2.0**16
_GROWTH_INTERVAL = 2000
WAITING = frozenset({"prodigy"})
"""Optimizers that read a number back from the card in every step anyway (its estimate of the step
size): whether the gradients are finite is asked there at no cost."""


class Updater:
    """The optimizer over the bank's flat weights, and fp16's loss scale."""

    def __init__(self, job: TrainJob, bank: LoraBank, device: torch.device, num_steps: int) -> None:
        self._job = job
        self._bank = bank
        self._num_steps = num_steps
        self.optimizer: Any = make_optimizer(job, bank, device)
        self._rates = base_rates(job)
        self._skips_on_device = bool(self.optimizer.defaults.get("fused"))
        self._waits = job.optimizer_type.lower() in WAITING
        self._undo = Undo(self.optimizer, bank.weights)
        self._scales = job.mixed_precision == "fp16"
        self.scale = torch.tensor(_FIRST_SCALE if self._scales else 1.0, device=device)
        self._finite_run = torch.zeros((), device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self.scale if self._scales else loss

    def rates(self, step: int) -> dict[str, float]:
        """The learning rate of each segment in step `step` (from 0)."""
        factor = lr_factor(self._job, step, self._num_steps)
        return {group["segment"]: self._rates[group["segment"]] * factor for group in self._groups}

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Update the weights. A step whose gradients are not finite changes nothing."""
        rates = self.rates(step)
        for group in self._groups:
            group["lr"] = rates[group["segment"]]
        divisor, finite = self._divisor()
        if self._skips_on_device:
            self.optimizer.grad_scale = divisor
            self.optimizer.found_inf = (~finite).float()
            self.optimizer.step()
        else:
            self._bank.grads.div_(divisor)
            self._bank.grads.nan_to_num_(0.0, 0.0, 0.0).mul_(finite)
            self._step_undone_unless(finite)
        if self._scales:
            self._adjust_scale(finite)
        self._bank.refresh()

    def _step_undone_unless(self, finite: Tensor) -> None:
        if self._waits:
            if bool(finite):
                self.optimizer.step()
            return
        before = self._undo.before()
        self.optimizer.step()
        self._undo.after(before, finite)

    def state(self) -> dict[str, Any]:
        self._undo.settle()
        return {
            "optimizer": self.optimizer.state_dict(),
            "scale": self.scale.cpu(),
            "finite_run": self._finite_run.cpu(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scale.copy_(state["scale"])
        self._finite_run.copy_(state["finite_run"])

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def _divisor(self) -> tuple[Tensor, Tensor]:
        """What gradients are to be divided by (loss scale and clipping), and whether they are
        finite."""
        norm = torch.linalg.vector_norm(self._bank.grads) / self.scale
        finite = torch.isfinite(norm)
        divisor = self.scale
        if self._job.max_grad_norm:
            # As torch.nn.utils.clip_grad_norm_: times min(1, max / (norm + 1e-6)).
            divisor = divisor * ((norm + 1e-6) / self._job.max_grad_norm).clamp(min=1.0)
        return torch.where(finite, divisor, 1.0), finite

    def _adjust_scale(self, finite: Tensor) -> None:
        """Half after an overflow, twice after 2000 steps without one."""
        self._finite_run.add_(1).mul_(finite)
        grows = self._finite_run >= _GROWTH_INTERVAL
        self.scale.mul_(torch.where(finite, torch.where(grows, 2.0, 1.0), 0.5))
        self._finite_run.mul_(~grows)
