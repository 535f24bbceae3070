"""The loss on pictures that are not trained on, at noise and timesteps that never change.

A step's loss depends mostly on the timestep and the noise that were drawn. Here both are fixed, so
two epochs are asked the same questions and differ by what was learnt alone. It is the plain mean
of squared errors: no min-SNR, no weights, no dropout; only masks count as in the training.
"""
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tenner.core.train_job import TrainItem, TrainJob
from tenner.engines.native.latents import Encoded, masks_of
from tenner.engines.native.network import Network
from tenner.engines.native.noise import NoiseSchedule, Question
from tenner.engines.native.rng import torch_rng

TIMESTEPS = 8
"""Questions to a picture, at the middles of equal parts of the schedule."""

Answer = Callable[[Tensor, Tensor, Sequence[str], Tensor], Tensor]
"""What the U-Net says: to noisy latents [n, 4, h, w], timesteps [n], captions and SDXL's sizes
[n, 6]."""


class Validation:
    """Held-out pictures with their latents, and the questions that are put to the network."""

    def __init__(
        self, job: TrainJob, network: Network, noise: NoiseSchedule, views: Sequence[Encoded]
    ) -> None:
        self._job = job
        self._network = network
        self._samples = [
            (item, view, question)
            for number, (item, view) in enumerate(zip(job.validation_items, views, strict=True))
            for question in _questions(job, noise, view, number)
        ]

    @torch.no_grad()
    def loss(self, answer: Answer) -> float:
        """The mean over all questions."""
        bank, size = self._network.bank, self._job.train_batch_size
        bank.evaluating = True
        try:
            total = torch.zeros((), device=self._network.device)
            for batch in _batches(self._samples, size):
                total += self._errors(batch, answer).sum()
            return float(total) / len(self._samples)
        finally:
            bank.evaluating = False

    def _errors(
        self, batch: Sequence[tuple[TrainItem, Encoded, Question]], answer: Answer
    ) -> Tensor:
        network = self._network
        noisy = torch.stack([question.noisy for _, _, question in batch])
        target = torch.stack([question.target for _, _, question in batch]).to(network.device)
        timesteps = torch.tensor([question.timestep for _, _, question in batch])
        sizes = torch.tensor([view.sizes for _, view, _ in batch], dtype=torch.float32)
        predicted = answer(
            noisy.to(network.device, network.dtype, memory_format=network.memory_format),
            timesteps.to(network.device),
            [item.caption for item, _, _ in batch],
            sizes.to(network.device),
        )
        errors = (predicted.float() - target).square()
        masks = masks_of([view for _, view, _ in batch], network.device)
        return (errors if masks is None else errors * masks).mean(dim=(1, 2, 3))


def _questions(job: TrainJob, noise: NoiseSchedule, view: Encoded, number: int) -> list[Question]:
    low, high = job.min_timestep, min(job.max_timestep, len(noise.alphas))
    timesteps = [
        low + (high - low) * (2 * part + 1) // (2 * TIMESTEPS) for part in range(TIMESTEPS)
    ]
    draws = [torch_rng(job.seed, "validation", number, timestep) for timestep in timesteps]
    return [
        noise.question(view.latents, torch.randn(view.latents.shape, generator=draw), timestep)
        for draw, timestep in zip(draws, timesteps, strict=True)
    ]


def _batches(
    samples: Sequence[tuple[TrainItem, Encoded, Question]], size: int
) -> list[list[tuple[TrainItem, Encoded, Question]]]:
    """Questions of one shape of picture together, at most `size`."""
    shapes: dict[tuple[int, ...], list[tuple[TrainItem, Encoded, Question]]] = {}
    for each in samples:
        shapes.setdefault(tuple(each[1].latents.shape), []).append(each)
    return [
        members[start : start + size]
        for members in shapes.values()
        for start in range(0, len(members), size)
    ]
