"""Events on stdout, and losses read back from the device without waiting.

A step is queued long before the device has computed its loss. On a GPU the loss is therefore copied
to pinned memory asynchronously, and reported a step or two later, when the copy is complete.
"""
# pyright: reportUnknownMemberType=false

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

import torch
from torch import Tensor

from tenner.core.events import EpochEnd, Event, Failed, Step, Warned
from tenner.core.messages import msg
from tenner.engines.native.batches import Schedule

_MOST_PENDING = 16
"""Losses that may be on their way; with more the host waits, so that it is never far ahead."""


class NotFiniteError(Exception):
    """More losses in a row were NaN or infinite than the job allows (`max_nonfinite_steps`)."""


class EventWriter:
    """Writes events to stdout, one a line. From then on `sys.stdout` is stderr, so that what
    libraries print does not get between them. Silent ones write `failed` events alone."""

    def __init__(self, *, silent: bool) -> None:
        self._out: TextIO = sys.stdout
        self.is_silent = silent
        self.listeners: list[Callable[[Event], None]] = []
        sys.stdout = sys.stderr

    def __call__(self, event: Event) -> None:
        if not self.is_silent or isinstance(event, Failed):
            self._out.write(event.to_json() + "\n")
            self._out.flush()
            for listener in self.listeners:
                listener(event)


@dataclass(frozen=True)
class _Pending:
    step: int
    loss: Tensor
    rates: dict[str, float]
    num_images: int
    arrived: Any = None


@dataclass
class Losses:
    """Losses on their way to the host, and the running mean of the epoch.

    Steps count from 1 here, over all attempts of the run. Seconds per step are a moving average.
    """

    emit: EventWriter
    schedule: Schedule
    max_nonfinite: int
    epoch_sum: float = 0.0
    epoch_count: int = 0
    _pending: deque[_Pending] = field(default_factory=deque[_Pending])
    _nonfinite: int = 0
    _last: float = field(default_factory=time.perf_counter)
    _seconds: float = 0.0

    def add(self, step: int, loss: Tensor, rates: dict[str, float], num_images: int) -> None:
        """Take the loss of a step that was queued, and report those that have arrived.

        `loss` is a scalar on the device. Raises NotFiniteError.
        """
        arrived = None
        if loss.device.type == "cuda":
            pinned = torch.empty((), pin_memory=True)
            pinned.copy_(loss.detach(), non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
            loss = pinned
        self._pending.append(_Pending(step, loss.detach(), rates, num_images, arrived))
        while self._pending:
            first = self._pending[0]
            if first.arrived is not None and not first.arrived.query():
                if len(self._pending) < _MOST_PENDING:
                    return
                first.arrived.synchronize()
            self._record(self._pending.popleft())

    def flush(self) -> None:
        """Wait for all losses and report them. Raises NotFiniteError."""
        while self._pending:
            if self._pending[0].arrived is not None:
                self._pending[0].arrived.synchronize()
            self._record(self._pending.popleft())

    def _record(self, found: _Pending) -> None:
        loss, per_epoch = float(found.loss), self.schedule.steps_per_epoch
        now = time.perf_counter()
        self._seconds = now - self._last if not self._seconds else (
            0.8 * self._seconds + 0.2 * (now - self._last)
        )  # fmt: skip
        self._last = now
        self._check_finite(found.step, loss)
        mean = self.epoch_sum / self.epoch_count if self.epoch_count else loss
        epoch = (found.step - 1) // per_epoch + 1
        self.emit(
            Step(
                step=found.step,
                num_steps=self.schedule.num_steps,
                epoch=epoch,
                num_epochs=self.schedule.num_epochs,
                loss=loss,
                loss_avg=mean,
                lr=found.rates,
                images_per_second=found.num_images / max(self._seconds, 1e-9),
                seconds_per_step=self._seconds,
            )
        )
        if found.step % per_epoch == 0 or found.step == self.schedule.num_steps:
            self.emit(EpochEnd(epoch=epoch, num_epochs=self.schedule.num_epochs, loss_avg=mean))
            self.epoch_sum, self.epoch_count = 0.0, 0

    def _check_finite(self, step: int, loss: float) -> None:
        if math.isfinite(loss):
            self._nonfinite = 0
            self.epoch_sum += loss
            self.epoch_count += 1
            return
        self._nonfinite += 1
        self.emit(
            Warned(
                text=msg(
                    "the loss of step {step} is not finite; the step changed nothing", step=step
                ),
                fix=msg("lower the learning rate, or use bf16 instead of fp16"),
            )
        )
        if self._nonfinite >= self.max_nonfinite:
            raise NotFiniteError(
                msg("{nonfinite} losses in a row are not finite", nonfinite=self._nonfinite)
            )
