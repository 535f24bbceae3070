"""A forward-backward pass, in two parts: its inputs, and what is computed from them.

All that depends on captions, on random numbers of the host or on the host's memory is in the
inputs, which are made for each pass. The computation reads only their tensors and the network's,
has the same operations for the same shapes, and never waits for the device: so a CUDA graph can
replace it (`graphs`). The optimizer's step is not part of it: its rates and its count of steps are
on the host, and over flat tensors it is a handful of kernels beside a pass's thousands.
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
    """The inputs of a pass, on the device. `text` are the token ids of each text encoder,
    [captions * chunks, tokens], where one is trained; else the encoded captions [n, tokens, width]
    and, for SDXL, their pooled text [n, width]."""

    samples: Samples
    text: tuple[Tensor, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, always in the same order."""
        return (*self.samples.tensors().values(), *self.text)

    def shapes(self) -> tuple[object, ...]:
        """A key that is equal for inputs on which a pass has the same operations."""
        described = [(tuple(each.shape), each.dtype, each.stride()) for each in self.tensors()]
        return (*described, self.samples.masks is not None)

    def cloned(self) -> "PassInputs":
        """A copy in new memory."""
        own = {name: each.clone() for name, each in self.samples.tensors().items()}
        return PassInputs(
            samples=replace(self.samples, **own), text=tuple(each.clone() for each in self.text)
        )

    def take(self, other: "PassInputs") -> None:
        """Copy the values of `other`, which has the same shapes, into these tensors."""
        for own, given in zip(self.tensors(), other.tensors(), strict=True):
            own.copy_(given, non_blocking=True)


class TrainingPass:
    """Forward and backward pass of a network. A call adds the gradients to the bank's `pass_grads`
    and returns the loss, a detached scalar; `scaled` multiplies a loss by fp16's loss scale."""

    def __init__(self, network: Network, scaled: Callable[[Tensor], Tensor]) -> None:
        self._network = network
        self._scaled = scaled
        self.captions = None if network.trains_text else CaptionCache(network.texts)
        self._frequencies = _frequencies(network) if network.unet.config.is_sdxl else None

    def inputs(self, samples: Samples) -> PassInputs:
        """A pass's inputs: the feed's samples, with their captions encoded or as tokens."""
        return PassInputs(samples=samples, text=self._text(samples.captions))

    def __call__(self, inputs: PassInputs) -> Tensor:
        loss = self._loss(inputs)
        self._scaled(loss).backward()
        return loss.detach()

    def predict(
        self, noisy: Tensor, timesteps: Tensor, captions: Sequence[str], sizes: Tensor
    ) -> Tensor:
        """The U-Net's prediction [n, 4, h, w] for noisy latents [n, 4, h, w]; see `Predict`."""
        return self._predicted(noisy, timesteps, self._text(captions), sizes)

    def _loss(self, inputs: PassInputs) -> Tensor:
        samples = inputs.samples
        predicted = self._predicted(samples.noisy, samples.timesteps, inputs.text, samples.sizes)
        error = (predicted.float() - samples.target).square()  # in fp32
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
