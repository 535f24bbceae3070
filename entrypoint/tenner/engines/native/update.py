"""From gradients to new weights: unscale, clip, skip what is not finite, step, schedule.

All decisions are taken on the device. The host waits for no number of it, so the next step is
queued while this one still runs.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from typing import Any

import torch
from torch import Tensor

from tenner.core.train_job import TrainJob
from tenner.engines.native.lora import LoraBank
from tenner.engines.native.optimizers import base_rates, make_optimizer
from tenner.engines.native.undo import Undo

# Loss scaling for fp16, with the numbers of torch.amp.GradScaler.
_FIRST_SCALE = 2.0**16
_GROWTH_INTERVAL = 2000
SYNCHRONOUS = frozenset({"prodigy"})
"""Optimizers whose step waits for the card anyway (for Prodigy's estimate of the step size): there,
reading whether the gradients are finite costs nothing more."""


class Updater:
    """The optimizer over the bank's flat weights, and fp16's loss scale."""

    def __init__(self, job: TrainJob, bank: LoraBank, device: torch.device, num_steps: int) -> None:
        self._job = job
        self._bank = bank
        self._num_steps = num_steps
        self.optimizer: Any = make_optimizer(job, bank, device)
        self._rates = base_rates(job)
        self._skips_on_device = bool(self.optimizer.defaults.get("fused"))
        self._is_synchronous = job.optimizer_type.lower() in SYNCHRONOUS
        self._undo = Undo(self.optimizer, bank.weights)
        self._scales = job.mixed_precision == "fp16"
        self.scale = torch.tensor(_FIRST_SCALE if self._scales else 1.0, device=device)
        self._finite_run = torch.zeros((), device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """`loss` times the loss scale, against underflow of fp16 gradients."""
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
            # NaN times 0 is NaN, so such numbers are replaced before all others become zero.
            self._bank.grads.nan_to_num_(0.0, 0.0, 0.0).mul_(finite)
            self._step_if_finite(finite)
        if self._scales:
            self._adjust_scale(finite)
        self._bank.refresh()

    def _step_if_finite(self, finite: Tensor) -> None:
        if self._is_synchronous:
            if bool(finite):
                self.optimizer.step()
            return
        before = self._undo.snapshot()
        self.optimizer.step()
        self._undo.restore_unless(before, finite)

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
        """What to divide the gradients by (loss scale and clipping), and whether they are finite:
        two scalars on the device."""
        # Infinite or NaN where any gradient is, so one number decides.
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


def warmup_steps(job: TrainJob, num_steps: int) -> int:
    """Steps of warm-up; a value below 1 is a fraction of all steps."""
    warmup = job.lr_warmup_steps
    return int(warmup * num_steps) if 0 < warmup < 1 else int(warmup)


def lr_factor(job: TrainJob, step: int, num_steps: int) -> float:
    """What the base rate is multiplied by in step `step` (from 0) of `num_steps`."""
    kind = job.lr_scheduler
    warm = warmup_steps(job, num_steps) if kind != "constant" else 0
    if step < warm:
        return step / max(1, warm)
    if kind in ("constant", "constant_with_warmup"):
        return 1.0
    progress = (step - warm) / max(1, num_steps - warm)
    if kind == "linear":
        return max(0.0, 1.0 - progress)
    if kind == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    if kind == "cosine_with_restarts":
        if progress >= 1.0:
            return 0.0
        cycle = (job.lr_scheduler_num_cycles * progress) % 1.0
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * cycle)))
    return _polynomial(job, progress)


def _polynomial(job: TrainJob, progress: float) -> float:
    """Down to a ten-millionth of the rate, the end value that transformers uses (1e-7)."""
    end = 1e-7 / job.learning_rate if job.learning_rate else 0.0
    if progress >= 1.0:
        return end
    return (1.0 - end) * (1.0 - progress) ** job.lr_scheduler_power + end
