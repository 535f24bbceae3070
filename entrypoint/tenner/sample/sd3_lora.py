"""sd-scripts' LoRAs of Stable Diffusion 3 in the names of diffusers' modules.

From both models' code: sd-scripts' MMDiT keeps the original layout (`joint_blocks`, queries, keys
and values in one matrix), diffusers' `SD3Transformer2DModel` has them apart and under its own
names. A fused module's update is `up @ down`: each third of `up`'s rows belongs to the whole
`down`. Where scale and shift are in the other order, `up`'s halves are swapped.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

Tensors = Mapping[str, torch.Tensor]

_IN_BLOCK: Mapping[str, tuple[str, ...]] = {
    "x_block_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block_attn_proj": ("attn.to_out.0",),
    "x_block_attn2_qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block_attn2_proj": ("attn2.to_out.0",),
    "x_block_mlp_fc1": ("ff.net.0.proj",),
    "x_block_mlp_fc2": ("ff.net.2",),
    "x_block_adaLN_modulation_1": ("norm1.linear",),
    "context_block_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block_attn_proj": ("attn.to_add_out",),
    "context_block_mlp_fc1": ("ff_context.net.0.proj",),
    "context_block_mlp_fc2": ("ff_context.net.2",),
    "context_block_adaLN_modulation_1": ("norm1_context.linear",),
}
_OUTSIDE: Mapping[str, str] = {
    "context_embedder": "context_embedder",
    "t_embedder_mlp_0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder_mlp_2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder_mlp_0": "time_text_embed.text_embedder.linear_1",
    "y_embedder_mlp_2": "time_text_embed.text_embedder.linear_2",
    "x_embedder_proj": "pos_embed.proj",
    "final_layer_linear": "proj_out",
    "final_layer_adaLN_modulation_1": "norm_out.linear",
}
_SWAPPED = "final_layer_adaLN_modulation_1"
_BLOCK = re.compile(r"joint_blocks_(\d+)_(.+)")
_CLIP = re.compile(r"lora_te([12])_text_model_encoder_layers_(\d+)_(self_attn|mlp)_(\w+)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Renamed:
    """The LoRA in diffusers' names, alpha over rank in it, and the modules that have no name
    there."""

    tensors: dict[str, torch.Tensor]
    unknown: tuple[str, ...]


def renamed(tensors: Tensors, num_layers: int) -> Renamed:
    """The LoRA of a model with so many blocks, as diffusers' `load_lora_weights` takes it."""
    found: dict[str, torch.Tensor] = {}
    unknown: list[str] = []
    for module in dict.fromkeys(name.partition(".")[0] for name in tensors):
        targets = _targets(module)
        down, up = _matrices(tensors, module)
        if not targets or down is None or up is None:
            unknown.append(module)
            continue
        if _is_swapped(module, num_layers):
            up = torch.cat(up.chunk(2)[::-1])
        for target, rows in zip(targets, up.chunk(len(targets)), strict=True):
            found[f"{target}.lora_A.weight"] = down
            found[f"{target}.lora_B.weight"] = rows.contiguous()
    return Renamed(tensors=found, unknown=tuple(unknown))


def _matrices(tensors: Tensors, module: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    down = tensors.get(f"{module}.lora_down.weight")
    up = tensors.get(f"{module}.lora_up.weight")
    if down is None or up is None:
        return None, None
    alpha = tensors.get(f"{module}.alpha")
    scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
    return down, up * scale


def _targets(module: str) -> tuple[str, ...]:
    """The names of diffusers' modules, in the order of the fused matrix's rows."""
    return tuple(_names(module))


def _names(module: str) -> Iterator[str]:
    if match := _CLIP.fullmatch(module):
        encoder = "text_encoder" if match[1] == "1" else "text_encoder_2"
        yield f"{encoder}.text_model.encoder.layers.{match[2]}.{match[3]}.{match[4]}"
        return
    inner = module.removeprefix("lora_unet_")
    if inner == module:
        return
    if match := _BLOCK.fullmatch(inner):
        for name in _IN_BLOCK.get(match[2], ()):
            yield f"transformer.transformer_blocks.{match[1]}.{name}"
    elif inner in _OUTSIDE:
        yield f"transformer.{_OUTSIDE[inner]}"


def _is_swapped(module: str, num_layers: int) -> bool:
    """The last layer, and the last block's context, whose norm is diffusers' continuous one."""
    last = f"lora_unet_joint_blocks_{num_layers - 1}_context_block_adaLN_modulation_1"
    return module in (f"lora_unet_{_SWAPPED}", last)
