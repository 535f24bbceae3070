"""A forward-backward pass, in two parts: its inputs, and what is computed from them.

All that depends on captions, chance or the host's memory is in the inputs, made anew for each
pass. What is then computed reads their tensors and the network's alone, always the same operations
for the same shapes, and nothing of it waits for the device: so a CUDA graph can stand for it
(`graphs`). The optimizer's step is no part of it. Its rates, its count of steps and what is undone
of it are the host's, and over flat tensors it is a handful of kernels beside a pass's thousands.
"""
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tenner.engines.native.feed import Samples
from tenner.engines.native.network import Network
from tenner.engines.native.text import CaptionCache, Conditioning

_SIZE_EMBEDDING = 256


@dataclass(frozen=True, kw_only=True)
class PassInputs:
    """What a pass is computed from, on the device. `text` holds token ids of each text encoder
    where one is trained, else the encoded captions and, for SDXL, their pooled text."""

    samples: Samples
    text: tuple[Tensor, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in an order that does not change."""
        return (*self.samples.tensors().values(), *self.text)

    def shapes(self) -> tuple[object, ...]:
        """Equal for inputs that are computed on by the same operations."""
        described = [(tuple(each.shape), each.dtype, each.stride()) for each in self.tensors()]
        return (*described, self.samples.masks is not None)

    def cloned(self) -> "PassInputs":
        """The same numbers in memory of their own."""
        own = {name: each.clone() for name, each in self.samples.tensors().items()}
        return PassInputs(
            samples=replace(self.samples, **own), text=tuple(each.clone() for each in self.text)
        )

    def take(self, other: "PassInputs") -> None:
        """Copy the numbers of `other`, which has these shapes, into this memory."""
        for own, given in zip(self.tensors(), other.tensors(), strict=True):
            own.copy_(given, non_blocking=True)


class TrainingPass:
    """Forward and backward of a network; called with inputs it leaves gradients in the bank's
    sinks and returns the loss, detached. `scaled` is the loss scale."""

    def __init__(self, network: Network, scaled: Callable[[Tensor], Tensor]) -> None:
        self._network = network
        self._scaled = scaled
        self.captions = None if network.trains_text else CaptionCache(network.texts)
        self._frequencies = _frequencies(network) if network.unet.config.is_sdxl else None

    def inputs(self, samples: Samples) -> PassInputs:
        """A pass's inputs: those of the feed, with their captions encoded or in tokens."""
        return PassInputs(samples=samples, text=self._text(samples.captions))

    def __call__(self, inputs: PassInputs) -> Tensor:
        loss = self._loss(inputs)
        self._scaled(loss).backward()
        return loss.detach()

    def answer(
        self, noisy: Tensor, timesteps: Tensor, captions: Sequence[str], sizes: Tensor
    ) -> Tensor:
        """What the U-Net predicts for noisy latents."""
        return self._predicted(noisy, timesteps, self._text(captions), sizes)

    def _loss(self, inputs: PassInputs) -> Tensor:
        samples = inputs.samples
        predicted = self._predicted(samples.noisy, samples.timesteps, inputs.text, samples.sizes)
        error = (predicted.float() - samples.target).square()
        if samples.masks is not None:
            error = error * samples.masks
        return (error.mean(dim=(1, 2, 3)) * samples.share).sum()

    def _predicted(
        self, noisy: Tensor, timesteps: Tensor, text: tuple[Tensor, ...], sizes: Tensor
    ) -> Tensor:
        found = self._conditioning(text)
        added = None if found.pooled is None else self._added(found.pooled, sizes)
        return self._network.unet(noisy, timesteps, found.context, added)

    def _text(self, captions: Sequence[str]) -> tuple[Tensor, ...]:
        if self.captions is None:
            return self._network.texts.tokens(captions)
        found = self.captions.encode(captions)
        return (found.context,) if found.pooled is None else (found.context, found.pooled)

    def _conditioning(self, text: tuple[Tensor, ...]) -> Conditioning:
        if self.captions is None:
            return self._network.texts.encode_tokens(text)
        return Conditioning(*text)

    def _added(self, pooled: Tensor, sizes: Tensor) -> Tensor:
        """SDXL: the pooled text and the embedded sizes, [batch, pooled + 6 * 256]."""
        assert self._frequencies is not None
        angles = sizes.flatten()[:, None] * self._frequencies
        waves = torch.cat([angles.cos(), angles.sin()], 1).view(len(sizes), -1)
        return torch.cat([pooled, waves.to(pooled.dtype)], 1)


def _frequencies(network: Network) -> Tensor:
    half = (network.unet.config.addition_time_dim or _SIZE_EMBEDDING) // 2
    steps = torch.arange(half, dtype=torch.float32, device=network.device) / half
    return torch.exp(-9.210340371976184 * steps)  # -log(10000)
