"""The encoder of the VAE, which encodes the pictures before the training.

It has the operations of diffusers' AutoencoderKL in the same order (a test compares the bits).
Importing diffusers takes longer than a short training, and nothing else of it is needed here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, linear, pad, scaled_dot_product_attention, silu

_EPS = 1e-6
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in folders that diffusers wrote before 0.15."""
_CHECKPOINT_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v"} | {
    "proj_out": "to_out.0"
}


class VaeEncoder:
    """From pixels to the distribution of their latents, in fp32.

    `config` is diffusers' configuration of an AutoencoderKL, `tensors` its weights by diffusers'
    names. Raises ValueError for another architecture, KeyError for a tensor that is missing.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        kinds = set(config.get("down_block_types") or ("DownEncoderBlock2D",))
        activation = config.get("act_fn", "silu")
        if kinds != {"DownEncoderBlock2D"} or activation != "silu":
            raise ValueError(f"its encoder is of {', '.join(sorted(kinds))} with {activation}")
        self.scaling_factor = float(config.get("scaling_factor") or 0.18215)
        self.shift_factor = float(config.get("shift_factor") or 0.0)
        self._groups = int(config.get("norm_num_groups") or 32)
        self._num_levels = len(config["block_out_channels"])
        self._num_resnets = int(config.get("layers_per_block") or 1)
        self._has_attention = config.get("mid_block_add_attention", True)
        self._has_quant_conv = config.get("use_quant_conv", True)
        self._weights: dict[str, Tensor] = dict(_encoder_tensors(tensors))
        self._check()

    def to(self, device: torch.device) -> "VaeEncoder":
        """Move the weights to `device`. Returns the encoder itself."""
        for name, value in self._weights.items():
            self._weights[name] = value.to(device)
        return self

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of the latents, before scaling: two of
        [n, c, h / 8, w / 8] for pixels [n, 3, h, w] from -1 to 1."""
        x = self._conv(pixels, "conv_in", padding=1)
        for level in range(self._num_levels):
            for index in range(self._num_resnets):
                x = self._resnet(x, f"down_blocks.{level}.resnets.{index}")
            if level < self._num_levels - 1:
                x = self._conv(
                    pad(x, (0, 1, 0, 1)), f"down_blocks.{level}.downsamplers.0.conv", stride=2
                )
        x = self._resnet(x, "mid_block.resnets.0")
        if self._has_attention:
            x = self._attention(x, "mid_block.attentions.0")
        x = self._resnet(x, "mid_block.resnets.1")
        x = self._conv(silu(self._norm(x, "conv_norm_out")), "conv_out", padding=1)
        if self._has_quant_conv:
            x = self._conv(x, "quant_conv")
        mean, log_variance = x.chunk(2, dim=1)
        return mean, torch.exp(0.5 * torch.clamp(log_variance, -30.0, 20.0))

    def _resnet(self, x: Tensor, name: str) -> Tensor:
        changed = self._conv(silu(self._norm(x, f"{name}.norm1")), f"{name}.conv1", padding=1)
        changed = self._conv(silu(self._norm(changed, f"{name}.norm2")), f"{name}.conv2", padding=1)
        if f"{name}.conv_shortcut.weight" in self._weights:
            x = self._conv(x, f"{name}.conv_shortcut")
        return x + changed

    def _attention(self, x: Tensor, name: str) -> Tensor:
        n, channels, height, width = x.shape
        tokens = x.view(n, channels, height * width).transpose(1, 2)
        normed = self._norm(tokens.transpose(1, 2), f"{name}.group_norm").transpose(1, 2)
        query, key, value = (
            self._linear(normed, f"{name}.to_{letter}").view(n, -1, 1, channels).transpose(1, 2)
            for letter in "qkv"
        )
        found = scaled_dot_product_attention(query, key, value)
        found = found.transpose(1, 2).reshape(n, -1, channels)
        found = self._linear(found, f"{name}.to_out.0")
        return found.transpose(-1, -2).reshape(n, channels, height, width) + x

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return group_norm(x, self._groups, weight, bias, _EPS)

    def _conv(self, x: Tensor, name: str, *, stride: int = 1, padding: int = 0) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return conv2d(x, weight, bias, stride=stride, padding=padding)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _check(self) -> None:
        """Raise KeyError for a missing tensor before anything is encoded."""
        needed = ["conv_in", "conv_out", "conv_norm_out"]
        needed += ["quant_conv"] if self._has_quant_conv else []
        blocks = [f"mid_block.resnets.{index}" for index in (0, 1)]
        for level in range(self._num_levels):
            blocks += [f"down_blocks.{level}.resnets.{each}" for each in range(self._num_resnets)]
            if level < self._num_levels - 1:
                needed.append(f"down_blocks.{level}.downsamplers.0.conv")
        needed += [f"{block}.{part}" for block in blocks for part in _RESNET]
        if self._has_attention:
            needed += [f"mid_block.attentions.0.{part}" for part in _ATTENTION]
        for name in needed:
            for kind in ("weight", "bias"):
                self._weights[f"{name}.{kind}"]


_RESNET = ("norm1", "conv1", "norm2", "conv2")
_ATTENTION = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")


def checkpoint_vae(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The encoder of a VAE in the original layout, by diffusers' names."""
    return {_diffusers_name(name): value for name, value in tensors.items()}


def _diffusers_name(name: str) -> str:
    parts = name.split(".")
    match parts:
        case ["encoder", "down", level, "block", index, *rest]:
            return ".".join(["encoder.down_blocks", level, "resnets", index, *_resnet_part(rest)])
        case ["encoder", "down", level, "downsample", *rest]:
            return ".".join(["encoder.down_blocks", level, "downsamplers.0", *rest])
        case ["encoder", "mid", ("block_1" | "block_2") as block, *rest]:
            index = str(int(block[-1]) - 1)
            return ".".join(["encoder.mid_block.resnets", index, *_resnet_part(rest)])
        case ["encoder", "mid", "attn_1", part, *rest]:
            return ".".join(
                ["encoder.mid_block.attentions.0", _CHECKPOINT_ATTENTION.get(part, part), *rest]
            )
        case ["encoder", "norm_out", *rest]:
            return ".".join(["encoder.conv_norm_out", *rest])
        case _:
            return name


def _resnet_part(parts: list[str]) -> list[str]:
    return ["conv_shortcut", *parts[1:]] if parts[0] == "nin_shortcut" else parts


def _encoder_tensors(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The encoder's tensors in fp32, without their prefix, attention weights as matrices."""
    for name in tensors:
        if not name.startswith(("encoder.", "quant_conv.")):
            continue
        value, short = tensors[name].float(), name.removeprefix("encoder.")
        if ".attentions." in short:
            start, _, part = short.partition(".attentions.0.")
            layer, _, kind = part.rpartition(".")
            short = f"{start}.attentions.0.{_OLD_ATTENTION.get(layer, layer)}.{kind}"
            value = value.squeeze(-1).squeeze(-1) if value.ndim == 4 else value
        yield short, value
