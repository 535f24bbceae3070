"""What else a file of weights may be: a model of another family, a variant of one, a part of one.

Marks are names of tensors, from the loaders of sd-scripts and of ComfyUI
(`comfy/model_detection.py`, `comfy/supported_models.py`).
"""

import re
from collections.abc import Iterable

from tenner.core.messages import Message, msg

_OTHERS: tuple[tuple[str, str], ...] = (
    ("FLUX.2", r"double_stream_modulation_img\.lin\.weight"),
    ("Chroma Radiance", r"(nerf_blocks\.0\.|img_in_patch\.weight)"),
    ("HunyuanVideo", r"txt_in\.individual_token_refiner\."),
    ("Qwen-Image", r"transformer_blocks\.\d+\.img_mod\.1\.weight"),
    ("Z-Image", r"layers\.29\.attention\.(qkv|to_q)\.weight"),
    ("Wan", r"blocks\.0\.cross_attn\.norm_k\.weight"),
    ("PixArt", r"adaln_single\.emb\."),
    ("HiDream", r"double_stream_blocks\.0\.block\."),
    ("Sana", r"transformer_blocks\.0\.ff\.conv_inverted\."),
    ("AuraFlow", r"double_layers\.0\.attn\.w1q\.weight"),
    ("Stable Cascade", r"down_blocks\.0\.\d+\.channelwise\."),
)
"""Families that tenner does not train, by a tensor of theirs; some have names that a known one has
too."""

_SHARED = {"HunyuanVideo": "byt5_in."}
"""Beginnings of tensors that only a family of tenner's has beside a mark: HunyuanImage 2.1 refines
its text as HunyuanVideo does."""

_ADAPTERS = re.compile(
    r"lora_unet_|lora_te|lora_transformer_|unet\..*lora|lycoris_|oft_unet_|oft_diag|"
    r".*\.(lora_(down|up|A|B|mid)\.|lora\.(down|up)\.|hada_w|lokr_w|oft_|dora_scale|lora_[AB]$)"
)
_PREFIX = re.compile(r"model\.diffusion_model\.|net\.|diffusion_model\.|transformer\.")


def other_model(names: Iterable[str]) -> str:
    """The name of the family that tenner does not train, by its tensors; empty for none of them."""
    plain = [_PREFIX.sub("", each, count=1) for each in names]
    for title, mark in _OTHERS:
        own = _SHARED.get(title)
        is_own = own is not None and any(each.startswith(own) for each in plain)
        if not is_own and any(re.match(mark, each) for each in plain):
            return title
    return ""


def other_kind(names: Iterable[str]) -> tuple[Message, Message] | None:
    """What files are that adapt or steer a model, and what to do; None for anything else."""
    names = tuple(names)
    if any(_ADAPTERS.match(each) for each in names):
        return msg("a LoRA, not a base"), msg("name it as network_weights to continue from it")
    if any(each.startswith(("control_model.", "controlnet_")) for each in names):
        return msg("a ControlNet"), msg("name the model itself as base_model")
    if names and all(each in ("emb_params", "clip_l", "clip_g", "t5xxl") for each in names):
        return msg("a textual inversion"), msg("name the model itself as base_model")
    return None
