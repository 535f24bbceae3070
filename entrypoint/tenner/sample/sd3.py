# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Stable Diffusion 3 and 3.5 as a diffusers pipeline, from the single files of the training.

Sizes are read from the tensors; nothing is fetched. diffusers reads the base and its autoencoder
itself (`from_single_file`); `sd3_lora` renames the LoRA's modules, which diffusers does not.
"""

import math
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTextModelWithProjection

from tenner.base.tokenizers import open_clip_tokenizer
from tenner.families.transformers import CLIP_G, CLIP_L
from tenner.sample.job import SampleJob
from tenner.sample.parts import (
    autoencoder_config,
    from_single_file,
    open_clip,
    open_t5,
    open_t5_tokenizer,
    part_tensors,
    tensor_shapes,
)

_VAE = autoencoder_config(scaling_factor=1.5305, shift_factor=0.0609)
"""stabilityai/stable-diffusion-3-medium-diffusers, vae/config.json; 3.5 has the same."""
SHIFT = 3.0
"""The same, scheduler/scheduler_config.json."""
_BLOCKS = "joint_blocks."


def open_sd3(job: SampleJob, dtype: torch.dtype) -> Any:
    """The pipeline, on the CPU. Raises OSError, KeyError, RuntimeError or ValueError where a file
    is not the expected one."""
    tokenizers = Path(job.tokenizers or "")
    library: Any = diffusers
    return library.StableDiffusion3Pipeline(
        scheduler=library.FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=from_single_file(library.AutoencoderKL, job.base, _VAE, dtype),
        text_encoder=_clip(job, "clip_l", "quick_gelu", dtype),
        tokenizer=open_clip_tokenizer(tokenizers / CLIP_L),
        text_encoder_2=_clip(job, "clip_g", "gelu", dtype),
        tokenizer_2=open_clip_tokenizer(tokenizers / CLIP_G),
        text_encoder_3=open_t5(_part(job, "t5xxl"), dtype),
        tokenizer_3=open_t5_tokenizer(tokenizers),
        transformer=from_single_file(
            library.SD3Transformer2DModel,
            job.base,
            transformer_config(tensor_shapes(Path(job.base))),
            dtype,
        ),
    )


def transformer_config(shapes: dict[str, list[int]]) -> dict[str, Any]:
    """diffusers' configuration of the MMDiT that has tensors of these shapes."""
    names = {name.removeprefix("model.diffusion_model."): each for name, each in shapes.items()}
    blocks = {int(name.split(".")[1]) for name in names if name.startswith(_BLOCKS)}
    dual = {
        int(name.split(".")[1])
        for name in names
        if name.startswith(_BLOCKS) and ".x_block.attn2." in name
    }
    width, context = names["context_embedder.weight"]
    has_norm = f"{_BLOCKS}0.x_block.attn.ln_k.weight" in names
    return {
        "_class_name": "SD3Transformer2DModel",
        "num_layers": max(blocks) + 1,
        "num_attention_heads": width // 64,
        "attention_head_dim": 64,
        "joint_attention_dim": context,
        "caption_projection_dim": width,
        "pooled_projection_dim": names["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(names["pos_embed"][1]),
        "dual_attention_layers": sorted(dual),
        "qk_norm": "rms_norm" if has_norm else None,
    }


def _part(job: SampleJob, option: str) -> dict[str, torch.Tensor]:
    """A text encoder from its own file, or from inside the base."""
    if option in job.further:
        return part_tensors(job.further[option])
    return part_tensors(job.base, f"text_encoders.{option}.transformer.")


def _clip(job: SampleJob, option: str, act: str, dtype: torch.dtype) -> Any:
    return open_clip(_part(job, option), dtype, CLIPTextModelWithProjection, act)
