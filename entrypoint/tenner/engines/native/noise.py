"""Noisy latents, and what the model should predict for them.

The schedule is the base's own (`scheduler_config.json`), else Stable Diffusion's: betas scaled
linearly from 0.00085 to 0.012 over 1000 steps. Formulas: min-SNR, arXiv 2303.09556; zero terminal
SNR, 2305.08891; offset noise, crosslabs.org 2023-01; input perturbation, 2301.11706.
"""
# pyright: reportUnknownMemberType=false

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tenner.core.train_job import TrainJob
from tenner.engines.native.rng import torch_rng


@dataclass(frozen=True)
class NoisySample:
    """Noisy latents [4, h, w] in fp32 at a timestep, and the `target` [4, h, w] to predict from
    them: the noise, or the velocity. `weight` multiplies the sample's loss."""

    noisy: Tensor
    target: Tensor
    timestep: int
    weight: float


class NoiseSchedule:
    """The share of signal and of noise at each of the base's timesteps.

    `alphas` [timesteps] is the cumulated product of 1 - beta: the signal's share of the variance.
    Raises ValueError for a `beta_schedule` that is not known.
    """

    def __init__(self, job: TrainJob, scheduler: Mapping[str, Any]) -> None:
        betas = _betas(scheduler)
        rescale = job.zero_terminal_snr
        if rescale is None:
            rescale = bool(scheduler.get("rescale_betas_zero_snr", False))
        if rescale:
            betas = _zero_terminal(betas)
        self.predicts_velocity = (
            job.v_parameterization
            if job.v_parameterization is not None
            else scheduler.get("prediction_type", "epsilon") == "v_prediction"
        )
        self.alphas = torch.cumprod(1.0 - betas, dim=0)
        self._job = job

    def sample(self, latents: Tensor, position: int) -> NoisySample:
        """`latents` [4, h, w] with the noise of `position`, the number of the sample in the run."""
        job = self._job
        rng = torch_rng(job.seed, "noise", position)  # in this order: timestep, noise, perturbation
        high = min(job.max_timestep, len(self.alphas))
        timestep = int(torch.randint(job.min_timestep, high, (1,), generator=rng))
        noise = _noise(job, latents, rng)
        return self.add_noise(latents, noise, timestep, seen=_perturbed(job, noise, rng))

    def add_noise(
        self, latents: Tensor, noise: Tensor, timestep: int, seen: Tensor | None = None
    ) -> NoisySample:
        """`latents` with `noise` of its strength at `timestep`; all tensors are [4, h, w].

        `seen` is the noise that is added, where it is not the one to predict (input perturbation).
        """
        alpha = self.alphas[timestep]
        signal, sigma = alpha.sqrt(), (1.0 - alpha).sqrt()
        noisy = signal * latents + sigma * (noise if seen is None else seen)
        target = signal * noise - sigma * latents if self.predicts_velocity else noise
        return NoisySample(noisy, target, timestep, self.weight(timestep))

    def weight(self, timestep: int) -> float:
        """The factor of a loss at `timestep`: min-SNR, debiased estimation, v like noise.

        The caps (1000, 1e-8, 1e-20) keep it finite at zero terminal SNR; 1000 is sd-scripts'.
        """
        job, alpha = self._job, float(self.alphas[timestep])
        snr = alpha / max(1.0 - alpha, 1e-20)
        weight = 1.0
        if job.min_snr_gamma:
            divisor = snr + 1.0 if self.predicts_velocity else max(snr, 1e-20)
            weight *= min(snr, job.min_snr_gamma) / divisor
        capped = min(snr, 1000.0)
        if job.scale_v_pred_loss_like_noise_pred:
            weight *= capped / (capped + 1.0)
        if job.debiased_estimation_loss:
            weight *= 1.0 / (capped + 1.0) if self.predicts_velocity else max(capped, 1e-8) ** -0.5
        return weight


def _betas(scheduler: Mapping[str, Any]) -> Tensor:
    start = float(scheduler.get("beta_start", 0.00085))
    end = float(scheduler.get("beta_end", 0.012))
    steps = int(scheduler.get("num_train_timesteps", 1000))
    kind = scheduler.get("beta_schedule", "scaled_linear")
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    if kind == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float32)
    raise ValueError(f"the base's beta_schedule {kind!r} is not known")


def _zero_terminal(betas: Tensor) -> Tensor:
    """Betas whose last step has no signal: algorithm 1 of arXiv 2305.08891."""
    roots = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    roots = (roots - last) * (first / (first - last))
    products = roots**2
    return 1.0 - torch.cat([products[:1], products[1:] / products[:-1]])


def _noise(job: TrainJob, latents: Tensor, rng: torch.Generator) -> Tensor:
    noise = torch.randn(latents.shape, generator=rng)
    if job.noise_offset:
        strength = job.noise_offset
        if job.noise_offset_random_strength:
            strength *= float(torch.rand(1, generator=rng))
        offset: Tensor | float = strength
        if job.adaptive_noise_scale is not None:
            level = latents.mean(dim=(1, 2), keepdim=True).abs()
            offset = (strength + job.adaptive_noise_scale * level).clamp(min=0.0)
        noise = noise + offset * torch.randn((latents.shape[0], 1, 1), generator=rng)
    if job.multires_noise_iterations:
        noise = _pyramid(job, noise, rng)
    return noise


def _pyramid(job: TrainJob, noise: Tensor, rng: torch.Generator) -> Tensor:
    """`noise` [c, h, w] with coarser noise added, scaled to unit variance (multires noise)."""
    channels, height, width = noise.shape
    for level in range(job.multires_noise_iterations or 0):
        ratio = float(torch.rand(1, generator=rng)) * 2 + 2
        small = [max(1, int(side / ratio**level)) for side in (height, width)]
        coarse = torch.randn((1, channels, *small), generator=rng)
        enlarged = functional.interpolate(coarse, size=(height, width), mode="bilinear")
        noise = noise + enlarged[0] * job.multires_noise_discount**level
        if 1 in small:
            break
    return noise / noise.std()


def _perturbed(job: TrainJob, noise: Tensor, rng: torch.Generator) -> Tensor:
    """The noise that is added to the latents: `noise` with input perturbation, where it is set."""
    if not job.ip_noise_gamma:
        return noise
    strength = job.ip_noise_gamma
    if job.ip_noise_gamma_random_strength:
        strength *= float(torch.rand(1, generator=rng))
    return noise + strength * torch.randn(noise.shape, generator=rng)
