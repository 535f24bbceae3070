"""What runs around sd-scripts' trainer, where its numbers are made to agree with tenner's own.

That both trainers save, resume and stop alike is in `tests/run` and `test_sd_real.py`.
"""

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tenner.engines.native.noise import NoiseSchedule
from tenner.engines.sd_scripts.with_states import Attempt, Batches, saving


@pytest.fixture
def attempt() -> Iterator[Attempt]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield Attempt(300)
    for number, handler in before.items():
        signal.signal(number, handler)


class Loader:
    """Seven batches of accelerate's."""

    num_workers = 1
    batch_sampler = SimpleNamespace(sampler=SimpleNamespace())
    base_dataloader = SimpleNamespace()

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Iterator[int]:
        return iter(range(7))


def batches_of(attempt: Attempt, accumulation: int) -> Batches:
    args = SimpleNamespace(gradient_accumulation_steps=accumulation, resume=None)
    return Batches(attempt, args).of(Loader())


@pytest.mark.parametrize(
    ("accumulation", "scales"),
    [
        (1, [1.0] * 7),
        (3, [1.0] * 6 + [3.0]),
        (4, [1.0] * 4 + [4 / 3] * 3),
        (7, [1.0] * 7),
        (8, [8 / 7] * 7),
    ],
)
def test_every_step_is_the_mean_of_its_batches(
    attempt: Attempt, accumulation: int, scales: list[float]
) -> None:
    """accelerate divides each loss by `accumulation`; the weights of a step then sum to one."""
    batches = batches_of(attempt, accumulation)
    found = [batches.short_step_scale() for _ in batches]
    assert found == pytest.approx(scales)
    for first in range(0, 7, accumulation):
        assert sum(found[first : first + accumulation]) / accumulation == pytest.approx(1.0)


class Scheduler:
    """The real one's: `all_snr` is of the betas before they are made to end without signal."""

    def __init__(self, alphas: torch.Tensor, before: torch.Tensor) -> None:
        self.alphas_cumprod = alphas
        self.all_snr = before / (1 - before)


def test_snr_is_that_of_the_noise_that_is_trained_with(attempt: Attempt) -> None:
    own = NoiseSchedule(_job(zero_terminal_snr=True), {})
    plain = NoiseSchedule(_job(zero_terminal_snr=False), {})

    class Trainer:
        def get_noise_scheduler(self, args: Any, device: Any) -> Scheduler:
            return Scheduler(own.alphas, plain.alphas)

    trainer = saving(Trainer, attempt, batches_of(attempt, 1))
    args = SimpleNamespace(zero_terminal_snr=True)
    found = trainer.get_noise_scheduler(args, torch.device("cpu"))
    for timestep in (0, 500, 900, 999):
        snr = float(found.all_snr[timestep])
        weight = min(snr, 5.0) / (snr + 1)  # its apply_snr_weight, predicting v
        assert weight == pytest.approx(own.weight(timestep), rel=1e-4, abs=1e-7)
    args = SimpleNamespace(zero_terminal_snr=False)
    left = trainer.get_noise_scheduler(args, torch.device("cpu"))
    assert torch.equal(left.all_snr, plain.alphas / (1 - plain.alphas))


def _job(*, zero_terminal_snr: bool) -> Any:
    return SimpleNamespace(
        zero_terminal_snr=zero_terminal_snr,
        v_parameterization=True,
        min_snr_gamma=5.0,
        scale_v_pred_loss_like_noise_pred=False,
        debiased_estimation_loss=False,
    )
