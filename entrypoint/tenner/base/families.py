"""What differs between the families of Stable Diffusion where a user leaves a setting open.

A row of the table is one family. Each value carries its reason, which a plan shows, and its source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from tenner.core.family import Family
from tenner.core.messages import msg

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Default(Generic[T]):
    """A value, why it is taken, and who says so."""

    value: T
    reason: str
    source: str


@dataclass(frozen=True, kw_only=True)
class FamilyDefaults:
    """The defaults of one family.

    `bucket_reso_steps` and `finest_step` are pixels; `text_encoder_lr_share` is a share of
    `learning_rate`, for runs that train the text encoders; `noise_offset` holds for bases that
    predict noise; `clip_skip` None is the family's own layer; `rank` is `network_dim`.
    """

    bucket_reso_steps: Default[int]
    finest_step: int
    network_train_unet_only: Default[bool]
    text_encoder_lr_share: Default[float]
    noise_offset: Default[float | None]
    clip_skip: Default[None]
    no_half_vae: Default[bool]
    rank: Default[int]


_GUIDE = "the guide that this program follows"

_SD1 = FamilyDefaults(
    bucket_reso_steps=Default(
        value=64,
        reason=msg("the U-Net halves its map three times, from latents of 8 pixels"),
        source="sd-scripts, docs/config_README-en.md: bucket_reso_steps 64",
    ),
    finest_step=64,
    network_train_unet_only=Default(
        value=False,
        reason=msg("the one text encoder learns the trigger"),
        source=_GUIDE,
    ),
    text_encoder_lr_share=Default(
        value=0.5, reason=msg("half of learning_rate, the guide's"), source=_GUIDE
    ),
    noise_offset=Default(
        value=None,
        reason=msg("the base was trained without"),
        source="CompVis stable-diffusion, v1-training configuration",
    ),
    clip_skip=Default(
        value=None,
        reason=msg("the base was trained on the text encoder's last layer"),
        source="CompVis stable-diffusion, FrozenCLIPEmbedder",
    ),
    no_half_vae=Default(
        value=False,
        reason=msg("its values stay within half precision"),
        source="sd-scripts, docs/train_network.md",
    ),
    rank=Default(value=32, reason="the guide's", source=_GUIDE),
)

FAMILY_DEFAULTS: Mapping[Family, FamilyDefaults] = {
    "sd1": _SD1,
    "sd2": FamilyDefaults(
        bucket_reso_steps=_SD1.bucket_reso_steps,
        finest_step=64,
        network_train_unet_only=_SD1.network_train_unet_only,
        text_encoder_lr_share=_SD1.text_encoder_lr_share,
        noise_offset=Default(
            value=None,
            reason=msg("the base was trained without"),
            source="Stability-AI stablediffusion, configs/stable-diffusion/v2-inference-v.yaml",
        ),
        clip_skip=Default(
            value=None,
            reason=msg(
                "the base was trained on the last layer but one, which its configuration names"
            ),
            source="Stability-AI stablediffusion, v2-inference-v.yaml: layer penultimate",
        ),
        no_half_vae=_SD1.no_half_vae,
        rank=_SD1.rank,
    ),
    "sdxl": FamilyDefaults(
        bucket_reso_steps=Default(
            value=32,
            reason=msg("the U-Net halves its map twice: finer steps, and less is cropped"),
            source="sd-scripts, docs/train_SDXL-en.md: 32 instead of 64, no less",
        ),
        finest_step=32,
        network_train_unet_only=Default(
            value=True,
            reason=msg("with two text encoders the result of training them is hard to foresee"),
            source="sd-scripts, docs/train_SDXL-en.md: network_train_unet_only highly recommended",
        ),
        text_encoder_lr_share=Default(
            value=0.1,
            reason=msg("a tenth of learning_rate, as in sd-scripts' guide to SDXL"),
            source="sd-scripts, docs/sdxl_train_network.md: 1e-5 beside 1e-4",
        ),
        noise_offset=Default(
            value=0.0357,
            reason=msg("the base was trained with it"),
            source="sd-scripts, library/sdxl_train_util.py; SDXL's report (arXiv 2307.01952)"
            " names 0.05 for the base's last stage",
        ),
        clip_skip=Default(
            value=None,
            reason=msg("SDXL always takes the last layer but one of both text encoders"),
            source="sd-scripts, library/sdxl_train_util.py",
        ),
        no_half_vae=Default(
            value=True,
            reason=msg("SDXL's VAE overflows in half precision"),
            source="sd-scripts, docs/train_SDXL-en.md: no_half_vae",
        ),
        rank=Default(
            value=32,
            reason=msg("as in sd-scripts' guide to SDXL"),
            source="sd-scripts, docs/sdxl_train_network.md: network_dim 32",
        ),
    ),
}

TINY_STEPS = 8
"""Of the tiny base, whose U-Net halves its map once, from latents of 4 pixels."""
