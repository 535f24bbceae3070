"""The configuration of a U-Net of Stable Diffusion's architecture, in any width and depth.

Reads diffusers' `unet/config.json`, and refuses options of other architectures by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Options of diffusers' UNet2DConditionModel that change the arithmetic, with the only values that
# Stable Diffusion 1.x, 2.x and XL have.
_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_scale_factor": (1, None),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0, None),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "addition_embed_type": (None, "text_time"),
}
_DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
_UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}


@dataclass(frozen=True, kw_only=True)
class UnetConfig:
    """The numbers of a U-Net. Tuples run over the levels, from the widest picture inwards."""

    in_channels: int
    channels: tuple[int, ...]
    layers_per_block: tuple[int, ...]
    down_attention: tuple[bool, ...]
    up_attention: tuple[bool, ...]
    depth: tuple[int, ...]
    """Transformer blocks in each attention of the level."""
    num_heads: tuple[int, ...]
    context_dim: int
    num_groups: int
    eps: float
    flip_sin_to_cos: bool
    freq_shift: float
    padding: int
    """Of the downsampling convolutions."""
    addition_time_dim: int | None
    """SDXL: width of one embedded size or crop number; None in other families."""
    sample_size: int | None

    @property
    def is_sdxl(self) -> bool:
        return self.addition_time_dim is not None


def parse_unet_config(config: Mapping[str, Any]) -> UnetConfig:
    """The numbers in diffusers' configuration. Raises ValueError naming what is not known."""
    wrong = [
        f"{name} = {config[name]!r}"
        for name, allowed in _FIXED.items()
        if name in config and config[name] not in allowed
    ]
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    wrong += [f"block type {kind}" for kind in down if kind not in _DOWN]
    wrong += [f"block type {kind}" for kind in up if kind not in _UP]
    if wrong:
        raise ValueError(f"not a Stable Diffusion U-Net: {', '.join(wrong)}")
    channels = tuple(int(each) for each in config["block_out_channels"])
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    return UnetConfig(
        in_channels=int(config.get("in_channels", 4)),
        channels=channels,
        layers_per_block=_per_level(config.get("layers_per_block", 2), len(channels)),
        down_attention=tuple(_DOWN[kind] for kind in down),
        up_attention=tuple(_UP[kind] for kind in up),
        depth=_per_level(config.get("transformer_layers_per_block", 1), len(channels)),
        num_heads=_per_level(heads, len(channels)),
        context_dim=_one_number(config.get("cross_attention_dim", 1280)),
        num_groups=int(config.get("norm_num_groups", 32)),
        eps=float(config.get("norm_eps", 1e-5)),
        flip_sin_to_cos=bool(config.get("flip_sin_to_cos", True)),
        freq_shift=float(config.get("freq_shift", 0)),
        padding=int(config.get("downsample_padding", 1)),
        addition_time_dim=config.get("addition_time_embed_dim")
        if config.get("addition_embed_type")
        else None,
        sample_size=config.get("sample_size"),
    )


def _per_level(value: Any, levels: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * levels
    return tuple(int(each) for each in value)


def _one_number(value: Any) -> int:
    if isinstance(value, int):
        return value
    values = {int(each) for each in value}
    if len(values) != 1:
        raise ValueError("not a Stable Diffusion U-Net: cross_attention_dim differs by level")
    return values.pop()
