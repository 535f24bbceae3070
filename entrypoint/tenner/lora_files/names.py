"""What the tensors of LoRA files are called, by the trainers that write them.

A tensor's name has three pieces: a prefix that names the network part, the path of the adapted
module, and a suffix for the tensor's part in that module. The tables are those of
sd-scripts' `networks/lora.py`, PEFT, diffusers' `loaders/lora_conversion_utils.py`, ComfyUI's
`comfy/lora.py` and LyCORIS's module files.
"""

import re
from dataclasses import dataclass
from typing import Literal

from tenner.core.network_parts import Part

Naming = Literal["kohya", "peft", "diffusers", "diffusers_old", "comfyui", "lycoris", "unknown"]
"""How modules are called: `lora_unet_down_blocks_0_…lora_down` (kohya), `base_model.model.…lora_A`
(PEFT), `unet.…lora_A` or `unet.…lora.down` (diffusers), `…processor.to_q_lora.down` (diffusers
before 0.22), `diffusion_model.…` (ComfyUI), `lycoris_…` (LyCORIS's own wrapper)."""


Kind = Literal["lora", "dora", "loha", "lokr", "oft", "ia3", "glora", "full", "norm", "unknown"]
"""How the update of a module is made of its tensors. A convolution's LoRA (LoCon) is `lora`."""


@dataclass(frozen=True, kw_only=True)
class TensorName:
    """The parts of a tensor's name. `module` is the whole name without the suffix, as in the file;
    `path` the module's path inside its part, as in the file (dots or underscores)."""

    module: str
    part: Part
    path: str
    role: str
    """The tensor's role in its module: `down`, `up`, `alpha`, `hada_w1_a`, `lokr_w2`, …"""
    naming: Naming


_ADAPTER = r"(?:\.[\w-]+)??"
"""PEFT puts an adapter's name between `lora_A` and `weight` where it saves the model itself."""

_SUFFIXES: tuple[tuple[str, str], ...] = (
    (r"\.lora_down\.weight", "down"),
    (r"\.lora_up\.weight", "up"),
    (r"\.lora_mid\.weight", "mid"),
    (rf"\.lora_A{_ADAPTER}\.weight", "down"),
    (rf"\.lora_B{_ADAPTER}\.weight", "up"),
    (r"\.lora\.down\.weight", "down"),
    (r"\.lora\.up\.weight", "up"),
    (r"\.lora_linear_layer\.down\.weight", "down"),
    (r"\.lora_linear_layer\.up\.weight", "up"),
    (rf"\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?", "magnitude"),
    (r"\.dora_scale", "magnitude"),
    (r"\.([ab][12])\.weight", "glora_{0}"),
    (r"\.((?:hada|lokr|oft)_[a-z0-9_]+(?:\.\d+)?)", "{0}"),  # numbered: OFT over FLUX.1's queries
    (r"\.(alpha|scalar|rescale|on_input|diff|diff_b|w_norm|b_norm)", "{0}"),
    (r"\.weight", "ia3"),
)
_SUFFIX = tuple((re.compile(f"(.+?){pattern}"), role) for pattern, role in _SUFFIXES)

# `to_out_lora` adapts the linear layer inside a list: `to_out.0`.
_PROCESSOR = re.compile(r"(.+)\.processor\.(to_\w+?|add_\w+?)_lora\.(down|up)\.weight")

_UNDERSCORED: tuple[tuple[str, Part, Naming], ...] = (
    ("lora_unet_", "unet", "kohya"),
    ("lora_te1_", "text_encoder", "kohya"),
    ("lora_te2_", "text_encoder_2", "kohya"),
    ("lora_te3_", "text_encoder_3", "kohya"),
    ("lora_te_", "text_encoder", "kohya"),
    ("lora_transformer_", "transformer", "kohya"),
    ("lora_prior_unet_", "other", "kohya"),
    ("oft_unet_", "unet", "kohya"),
    ("lycoris_unet_", "unet", "lycoris"),
    ("lycoris_te1_", "text_encoder", "lycoris"),
    ("lycoris_te2_", "text_encoder_2", "lycoris"),
    ("lycoris_te_", "text_encoder", "lycoris"),
    ("lycoris_", "unet", "lycoris"),
)
_DOTTED: tuple[tuple[str, Part, Naming], ...] = (
    ("unet.", "unet", "diffusers"),
    ("text_encoder.", "text_encoder", "diffusers"),
    ("text_encoder_2.", "text_encoder_2", "diffusers"),
    ("text_encoder_3.", "text_encoder_3", "diffusers"),
    ("transformer.", "transformer", "diffusers"),
    ("model.diffusion_model.", "unet", "comfyui"),
    ("diffusion_model.", "unet", "comfyui"),
    ("text_encoders.clip_l.", "text_encoder", "comfyui"),
    ("text_encoders.clip_g.", "text_encoder_2", "comfyui"),
)
_BARE: tuple[tuple[str, Part], ...] = (
    ("text_model.", "text_encoder"),
    ("down_blocks.", "unet"),
    ("mid_block.", "unet"),
    ("up_blocks.", "unet"),
    ("input_blocks.", "unet"),
    ("middle_block.", "unet"),
    ("output_blocks.", "unet"),
    ("transformer_blocks.", "transformer"),
    ("single_transformer_blocks.", "transformer"),
    ("double_blocks.", "transformer"),
    ("single_blocks.", "transformer"),
    ("joint_blocks.", "transformer"),
)
_TRANSFORMER = re.compile(
    r"(double_blocks|single_blocks|joint_blocks|(single_)?transformer_blocks|blocks|layers)[._]\d"
    r"|((noise|context)_refiner|llm_adapter|final_layer|(x|t|y|cap|context)_embedder)[._]"
)


def parse_tensor_name(name: str) -> TensorName | None:
    """The parts of the name; None where it is not a tensor of an adapter."""
    found = _split(name)
    if found is None:
        return None
    module, role, old = found
    placed = _placed(module, role)
    if placed is None:
        return None
    part, path, naming = placed
    if part == "unet" and _TRANSFORMER.match(path):
        part = "transformer"
    return TensorName(
        module=module,
        part=part,
        path=path,
        role=role,
        naming="diffusers_old" if old else naming,
    )


def _split(name: str) -> tuple[str, str, bool] | None:
    """(module, role, whether by attention processors)."""
    old = _PROCESSOR.fullmatch(name)
    if old:
        module, layer, side = old.groups()
        layer = "to_out.0" if layer == "to_out" else layer
        return f"{module}.{layer}", side, True
    for pattern, role in _SUFFIX:
        match = pattern.fullmatch(name)
        if match:
            return match[1], role.format(*match.groups()[1:]), False
    return None


def _placed(module: str, role: str) -> tuple[Part, str, Naming] | None:
    """(network part, path in it, naming) of a module."""
    for prefix, part, naming in _UNDERSCORED:
        if module.startswith(prefix):
            return part, module.removeprefix(prefix), naming
    peft = module.startswith("base_model.model.")
    rest = module.removeprefix("base_model.model.") if peft else module
    for prefix, part, naming in _DOTTED:
        if rest.startswith(prefix):
            return part, rest.removeprefix(prefix), "peft" if peft else naming
    for prefix, part in _BARE:
        # A plain `.weight` is IA3's only under a prefix: elsewhere it is a model's own.
        if rest.startswith(prefix) and (peft or role != "ia3"):
            return part, rest, "peft" if peft else "diffusers"
    return ("other", rest, "peft") if peft else None


def underscored(path: str) -> str:
    """A module's path in kohya's names."""
    return path.replace(".", "_")
