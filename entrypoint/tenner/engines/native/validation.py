"""The loss on held-out pictures, at noise and timesteps that never change.

A step's loss depends mostly on its random timesteps and noise. Here both are fixed, so that the
losses of two epochs differ only by what was learnt between them. It is the plain mean of squared
errors: no min-SNR, no weights, no dropout; masks count as in the training.
"""
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tenner.core.train_job import TrainItem, TrainJob
from tenner.engines.native.latents import Encoded, masks_of
from tenner.engines.native.network import Network
from tenner.engines.native.noise import NoiseSchedule, NoisySample
from tenner.engines.native.rng import torch_rng

TIMESTEPS = 8
"""Samples of each picture, at the middles of as many equal parts of the schedule."""

Predict = Callable[[Tensor, Tensor, Sequence[str], Tensor], Tensor]
"""The U-Net's prediction [n, 4, h, w] for noisy latents [n, 4, h, w], timesteps [n], n captions and
SDXL's sizes [n, 6]."""


class Validation:
    """The job's held-out pictures as fixed noisy samples. `views` are their latents, in order."""

    def __init__(
        self, job: TrainJob, network: Network, noise: NoiseSchedule, views: Sequence[Encoded]
    ) -> None:
        self._job = job
        self._network = network
        self._samples = [
            (item, view, sample)
            for number, (item, view) in enumerate(zip(job.validation_items, views, strict=True))
            for sample in _noisy_samples(job, noise, view, number)
        ]

    @torch.no_grad()
    def loss(self, predict: Predict) -> float:
        """The mean loss over all samples, without dropout."""
        bank, size = self._network.bank, self._job.train_batch_size
        bank.evaluating = True
        try:
            total = torch.zeros((), device=self._network.device)
            for batch in _batches(self._samples, size):
                total += self._errors(batch, predict).sum()
            return float(total) / len(self._samples)
        finally:
            bank.evaluating = False

    def _errors(
        self, batch: Sequence[tuple[TrainItem, Encoded, NoisySample]], predict: Predict
    ) -> Tensor:
        network = self._network
        noisy = torch.stack([sample.noisy for _, _, sample in batch])
        target = torch.stack([sample.target for _, _, sample in batch]).to(network.device)
        timesteps = torch.tensor([sample.timestep for _, _, sample in batch])
        sizes = torch.tensor([view.sizes for _, view, _ in batch], dtype=torch.float32)
        predicted = predict(
            noisy.to(network.device, network.dtype, memory_format=network.memory_format),
            timesteps.to(network.device),
            [item.caption for item, _, _ in batch],
            sizes.to(network.device),
        )
        errors = (predicted.float() - target).square()
        masks = masks_of([view for _, view, _ in batch], network.device)
        return (errors if masks is None else errors * masks).mean(dim=(1, 2, 3))


def _noisy_samples(
    job: TrainJob, noise: NoiseSchedule, view: Encoded, number: int
) -> list[NoisySample]:
    """The samples of held-out picture `number`, one for each timestep."""
    low, high = job.min_timestep, min(job.max_timestep, len(noise.alphas))
    timesteps = [
        low + (high - low) * (2 * part + 1) // (2 * TIMESTEPS) for part in range(TIMESTEPS)
    ]
    rngs = [torch_rng(job.seed, "validation", number, timestep) for timestep in timesteps]
    return [
        noise.add_noise(view.latents, torch.randn(view.latents.shape, generator=rng), timestep)
        for rng, timestep in zip(rngs, timesteps, strict=True)
    ]


def _batches(
    samples: Sequence[tuple[TrainItem, Encoded, NoisySample]], size: int
) -> list[list[tuple[TrainItem, Encoded, NoisySample]]]:
    """The samples in batches of one shape, of at most `size`."""
    shapes: dict[tuple[int, ...], list[tuple[TrainItem, Encoded, NoisySample]]] = {}
    for each in samples:
        shapes.setdefault(tuple(each[1].latents.shape), []).append(each)
    return [
        members[start : start + size]
        for members in shapes.values()
        for start in range(0, len(members), size)
    ]
