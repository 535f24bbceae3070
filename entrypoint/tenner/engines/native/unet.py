"""The U-Net of Stable Diffusion, written for training a LoRA on it.

The arithmetic and the names of the weights are those of diffusers' UNet2DConditionModel (a test
compares both). It reads and writes less memory: features pass through the transformer blocks as
[tokens, channels] without being transposed; query, key and value are one product; keys and values
of *all* cross-attentions are one product, since they read the same text; the time embedding is
looked up and projected for all residual blocks at once; and before the first module with a LoRA
nothing is saved for the backward pass.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tenner.engines.native.layers import Conv, GroupNorm, LayerNorm, attention, geglu, heads_of
from tenner.engines.native.parts import Parts
from tenner.engines.native.projection import Projection
from tenner.engines.native.recomputation import Unit, cheapest_first
from tenner.engines.native.unet_config import UnetConfig

NUM_TIMESTEPS = 1000
# The epsilon of the group norm in diffusers' Transformer2DModel, whatever the configuration has.
_TRANSFORMER_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Block:
    """A transformer block: self-attention, cross-attention to the text, feed-forward."""

    norm1: LayerNorm
    self_qkv: Projection
    self_out: Projection
    norm2: LayerNorm
    cross_query: Projection
    cross_out: Projection
    norm3: LayerNorm
    feed_in: Projection
    feed_out: Projection
    num_heads: int
    unit: Unit
    """Its index is that of this block's keys and values."""

    def __call__(self, x: Tensor, key_value: Tensor, batch: int) -> Tensor:
        """x and the result are [batch * tokens, channels], `key_value` is
        [batch * text tokens, 2 * channels]."""
        query, key, value = heads_of(self.self_qkv(self.norm1(x)), batch, 3, self.num_heads)
        x = self.self_out(attention(query, key, value), x)
        (query,) = heads_of(self.cross_query(self.norm2(x)), batch, 1, self.num_heads)
        key, value = heads_of(key_value, batch, 2, self.num_heads)
        x = self.cross_out(attention(query, key, value), x)
        return self.feed_out(geglu(self.feed_in(self.norm3(x))), x)


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """The attention of a layer: its blocks between a norm and two projections."""

    norm: GroupNorm
    proj_in: Projection
    blocks: tuple[Block, ...]
    proj_out: Projection


@dataclass(frozen=True, kw_only=True)
class Resnet:
    """A residual block."""

    norm1: GroupNorm
    conv1: Conv
    norm2: GroupNorm
    conv2: Conv
    shortcut: Conv | None
    unit: Unit
    """Its index is that of this block's projected time embedding."""

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """x [batch, in, h, w] to [batch, out, h, w]; time [batch, out, 1, 1] with conv1's bias."""
        inner = self.conv1(functional.silu(self.norm1(x)), time)
        inner = functional.silu(self.norm2(inner))
        return self.conv2(inner, x if self.shortcut is None else self.shortcut(x))


@dataclass(frozen=True, kw_only=True)
class Level:
    """The layers of one resolution, and the convolution to the next one."""

    resnets: tuple[Resnet, ...]
    transformers: tuple[Transformer | None, ...]
    resample: Conv | None = None


@dataclass(frozen=True)
class _Shared:
    """What all layers of a pass share: keys and values of each block, times of each resnet."""

    batch: int
    key_values: Sequence[Tensor]
    times: Sequence[Tensor]


class Unet:
    """Predicts the noise (or velocity) in noisy latents. Its weights are made by `parts`."""

    def __init__(self, config: UnetConfig, parts: Parts) -> None:
        self.config = config
        self.recomputed: frozenset[Unit] = frozenset()
        """Units whose inner values are computed again in the backward pass, not saved."""
        self.restores_rng = False
        """Whether recomputation restores the random state, as dropouts need it."""
        self.run_block: Callable[[Block, Tensor, Tensor, int], Tensor] = _run_block
        self._resnet_names: list[str] = []
        self._block_names: list[tuple[str, int]] = []
        self._units: list[Unit] = []
        self._conv_in = parts.conv("conv_in", padding=1)
        levels = range(len(config.channels))
        self._down = [self._down_level(parts, level) for level in levels]
        self._middle = self._middle_level(parts)
        self._up = [self._up_level(parts, level) for level in levels]
        self._norm_out = parts.group_norm("conv_norm_out", config.num_groups, config.eps)
        self._conv_out = parts.conv("conv_out", padding=1)
        self._key_value = self._all_key_values(parts)
        self._time_projection = parts.stacked_projection(
            [f"{name}.time_emb_proj" for name in self._resnet_names],
            bias_of=[f"{name}.conv1" for name in self._resnet_names],
        )
        self._time_widths = [self._width_of(parts, name) for name in self._resnet_names]
        self._time_table = _time_table(config, parts)
        self.units = cheapest_first(self._units)
        """The blocks that can be recomputed in the backward pass, the cheapest first."""
        self._added = [
            parts.projection(f"add_embedding.linear_{each}") for each in (1, 2) if config.is_sdxl
        ]

    def __call__(
        self, latents: Tensor, timesteps: Tensor, context: Tensor, added: Tensor | None = None
    ) -> Tensor:
        """The prediction [batch, 4, h, w] for `latents` [batch, 4, h, w] at `timesteps` [batch].

        `context`, the encoded text, is [batch, text tokens, context_dim]; `added` is SDXL's pooled
        text and embedded sizes, [batch, pooled + sizes].
        """
        batch = latents.shape[0]
        shared = _Shared(batch, self._key_values_of(context), self._times_of(timesteps, added))
        x = self._conv_in(latents)
        skips = [x]
        for level in self._down:
            for resnet, transformer in zip(level.resnets, level.transformers, strict=True):
                x = self._layer(x, resnet, transformer, shared)
                skips.append(x)
            if level.resample is not None:
                x = level.resample(x)
                skips.append(x)
        x = self._layer(x, self._middle.resnets[0], self._middle.transformers[0], shared)
        x = self._layer(x, self._middle.resnets[1], None, shared)
        for level in self._up:
            for resnet, transformer in zip(level.resnets, level.transformers, strict=True):
                x = self._layer(torch.cat([x, skips.pop()], 1), resnet, transformer, shared)
            if level.resample is not None:
                size = list(skips[-1].shape[2:])
                x = level.resample(functional.interpolate(x, size=size, mode="nearest"))
        return self._conv_out(functional.silu(self._norm_out(x)))

    def recompute(self, number: int | None) -> None:
        """Recompute `number` units in the backward pass, the cheapest first; None is all."""
        self.recomputed = frozenset(self.units[:number])

    # What all blocks share

    def _key_values_of(self, context: Tensor) -> Sequence[Tensor]:
        """Keys and values [batch * text tokens, 2 * channels] of each block, from one product."""
        joined = self._key_value(context.flatten(0, 1))
        widths = [2 * width for _, width in self._sorted_blocks()]
        found: list[Tensor | None] = [None] * len(widths)
        for (index, _), part in zip(self._sorted_blocks(), joined.split(widths, 1), strict=True):
            found[index] = part
        return cast("list[Tensor]", found)

    def _times_of(self, timesteps: Tensor, added: Tensor | None) -> Sequence[Tensor]:
        """The time embeddings [batch, channels, 1, 1] of each residual block, from one product."""
        embedded = self._time_table[timesteps]
        if added is not None:
            first, second = self._added
            embedded = second(functional.silu(first(added)), embedded)
        projected = self._time_projection(functional.silu(embedded))
        return projected[:, :, None, None].split(self._time_widths, 1)

    def _sorted_blocks(self) -> list[tuple[int, int]]:
        """(index, width) of all blocks by width: equal widths are one `UpGroup` of the LoRA."""
        widths = [(index, width) for index, (_, width) in enumerate(self._block_names)]
        return sorted(widths, key=lambda each: each[1])

    # One layer

    def _layer(
        self, x: Tensor, resnet: Resnet, transformer: Transformer | None, shared: _Shared
    ) -> Tensor:
        time = shared.times[resnet.unit.index]
        recomputed = resnet.unit in self.recomputed
        x = self._checkpointed(resnet, x, time) if recomputed else resnet(x, time)
        return x if transformer is None else self._transform(x, transformer, shared)

    def _transform(self, x: Tensor, transformer: Transformer, shared: _Shared) -> Tensor:
        height, width = x.shape[2:]
        tokens = _tokens(transformer.norm(x))
        inner = transformer.proj_in(tokens)
        for block in transformer.blocks:
            key_value = shared.key_values[block.unit.index]
            if block.unit in self.recomputed:
                inner = self._checkpointed(self.run_block, block, inner, key_value, shared.batch)
            else:
                inner = self.run_block(block, inner, key_value, shared.batch)
        found = transformer.proj_out(inner, _tokens(x))
        return found.view(shared.batch, height, width, -1).permute(0, 3, 1, 2)

    def _checkpointed(self, run: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """`run(*inputs)` with gradient checkpointing."""
        found = checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=self.restores_rng)
        return cast(Tensor, found)

    # Building

    def _down_level(self, parts: Parts, level: int) -> Level:
        config, name = self.config, f"down_blocks.{level}"
        layers = range(config.layers_per_block[level])
        resnets, transformers = self._layers(
            parts, name, layers, config.down_attention[level], level
        )
        if level + 1 == len(config.channels):
            return Level(resnets=resnets, transformers=transformers)
        resample = parts.conv(f"{name}.downsamplers.0.conv", stride=2, padding=config.padding)
        return Level(resnets=resnets, transformers=transformers, resample=resample)

    def _middle_level(self, parts: Parts) -> Level:
        first = self._resnet(parts, "mid_block.resnets.0")
        transformer = self._transformer(
            parts, "mid_block.attentions.0", len(self.config.channels) - 1
        )
        second = self._resnet(parts, "mid_block.resnets.1")
        return Level(resnets=(first, second), transformers=(transformer, None))

    def _up_level(self, parts: Parts, level: int) -> Level:
        config, name = self.config, f"up_blocks.{level}"
        mirrored = len(config.channels) - 1 - level
        layers = range(config.layers_per_block[mirrored] + 1)
        resnets, transformers = self._layers(
            parts, name, layers, config.up_attention[level], mirrored
        )
        if not mirrored:
            return Level(resnets=resnets, transformers=transformers)
        resample = parts.conv(f"{name}.upsamplers.0.conv", padding=1)
        return Level(resnets=resnets, transformers=transformers, resample=resample)

    def _layers(
        self, parts: Parts, name: str, layers: range, attends: bool, level: int
    ) -> tuple[tuple[Resnet, ...], tuple[Transformer | None, ...]]:
        resnets: list[Resnet] = []
        transformers: list[Transformer | None] = []
        for layer in layers:
            resnets.append(self._resnet(parts, f"{name}.resnets.{layer}"))
            attention_name = f"{name}.attentions.{layer}"
            transformers.append(
                self._transformer(parts, attention_name, level) if attends else None
            )
        return tuple(resnets), tuple(transformers)

    def _resnet(self, parts: Parts, name: str) -> Resnet:
        groups, eps, shortcut = self.config.num_groups, self.config.eps, f"{name}.conv_shortcut"
        width, index = self._width_of(parts, name), len(self._resnet_names)
        unit = Unit(kind="resnet", channels=width, index=index)
        self._resnet_names.append(name)
        self._units.append(unit)
        return Resnet(
            norm1=parts.group_norm(f"{name}.norm1", groups, eps),
            conv1=parts.conv(f"{name}.conv1", padding=1, bias=False),
            norm2=parts.group_norm(f"{name}.norm2", groups, eps),
            conv2=parts.conv(f"{name}.conv2", padding=1),
            shortcut=parts.conv(shortcut) if parts.has(shortcut) else None,
            unit=unit,
        )

    def _transformer(self, parts: Parts, name: str, level: int) -> Transformer:
        blocks = range(self.config.depth[level])
        return Transformer(
            norm=parts.group_norm(f"{name}.norm", self.config.num_groups, _TRANSFORMER_EPS),
            proj_in=parts.projection(f"{name}.proj_in"),
            blocks=tuple(
                self._block(parts, f"{name}.transformer_blocks.{each}", level) for each in blocks
            ),
            proj_out=parts.projection(f"{name}.proj_out"),
        )

    def _block(self, parts: Parts, name: str, level: int) -> Block:
        width, index = self.config.channels[level], len(self._block_names)
        unit = Unit(kind="block", channels=width, index=index)
        self._block_names.append((name, width))
        self._units.append(unit)
        return Block(
            norm1=parts.layer_norm(f"{name}.norm1"),
            self_qkv=parts.stacked_projection([f"{name}.attn1.to_{part}" for part in "qkv"]),
            self_out=parts.projection(f"{name}.attn1.to_out.0"),
            norm2=parts.layer_norm(f"{name}.norm2"),
            cross_query=parts.projection(f"{name}.attn2.to_q"),
            cross_out=parts.projection(f"{name}.attn2.to_out.0"),
            norm3=parts.layer_norm(f"{name}.norm3"),
            feed_in=parts.projection(f"{name}.ff.net.0.proj"),
            feed_out=parts.projection(f"{name}.ff.net.2"),
            num_heads=self.config.num_heads[level],
            unit=unit,
        )

    def _all_key_values(self, parts: Parts) -> Projection:
        names = [self._block_names[index][0] for index, _ in self._sorted_blocks()]
        return parts.stacked_projection(
            [f"{name}.attn2.to_{part}" for name in names for part in "kv"]
        )

    @staticmethod
    def _width_of(parts: Parts, resnet: str) -> int:
        return parts.tensor(f"{resnet}.norm2.weight").shape[0]


def _run_block(block: Block, x: Tensor, key_value: Tensor, batch: int) -> Tensor:
    return block(x, key_value, batch)


def _tokens(x: Tensor) -> Tensor:
    """[batch, channels, h, w] -> [batch * h * w, channels]; a view in channels-last layout."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


@torch.no_grad()
def _time_table(config: UnetConfig, parts: Parts) -> Tensor:
    """The embedding of every timestep, [1000, 4 * channels]: its layers are frozen, so it is made
    once and looked up in every pass."""
    half = config.channels[0] // 2
    exponents = torch.arange(half, dtype=torch.float32) / (half - config.freq_shift)
    angles = torch.arange(NUM_TIMESTEPS)[:, None] * torch.exp(-math.log(10000.0) * exponents)
    halves = (
        [angles.cos(), angles.sin()] if config.flip_sin_to_cos else [angles.sin(), angles.cos()]
    )
    first = parts.projection("time_embedding.linear_1")
    second = parts.projection("time_embedding.linear_2")
    waves = torch.cat(halves, 1).to(first.weight)
    return second(functional.silu(first(waves)))
