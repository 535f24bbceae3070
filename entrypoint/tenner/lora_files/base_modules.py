"""The modules of a base that a LoRA can adapt, by kohya's names, read from its files' headers.

The rule is sd-scripts': in the U-Net all linear layers and 1x1 convolutions inside the attentions,
with `convolutions` those of the residual blocks and samplers too, in a text encoder all of
attention and MLP. Standard library only.
"""

import json
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from tenner.base.model import Base
from tenner.core.family import Family
from tenner.core.safetensors_head import read_safetensors_header
from tenner.engines.native.unet_config import parse_unet_config
from tenner.engines.native.unet_names import OriginalNames

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor shapes by name: outputs, inputs, kernel."""
_UNET = "model.diffusion_model."
_CONVOLUTIONAL = (".resnets.", ".downsamplers.", ".upsamplers.")
_TEXT_LAYERS = re.compile(
    r"text_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
)
_OPEN_CLIP_LAYER = re.compile(r"(?:.*\.)?resblocks\.(\d+)\.attn\.in_proj_weight")
_TEXT_MODULES = (
    *("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj"),
    *("mlp_fc1", "mlp_fc2"),
)


def adaptable_modules(base: Base, *, convolutions: bool = False) -> dict[str, tuple[int, ...]]:
    """Kohya's name of each module, with its weight's shape. Raises SettingsError or OSError."""
    folder = base.path if base.layout == "diffusers" else None
    unet = _shapes(folder / "unet") if folder else _of_checkpoint(_head(base.path), _UNET)
    found = dict(_unet_modules(base, unet, convolutions=convolutions))
    if folder:
        second = folder / "text_encoder_2"
        prefix = "lora_te1" if second.is_dir() else "lora_te"
        found |= _text_modules(_shapes(folder / "text_encoder"), prefix)
        found |= _text_modules(_shapes(second), "lora_te2") if second.is_dir() else {}
        return found
    return found | _checkpoint_text_modules(_head(base.path), base.family)


def _unet_modules(
    base: Base, shapes: Shapes, *, convolutions: bool
) -> Iterator[tuple[str, tuple[int, ...]]]:
    is_folder = base.layout == "diffusers"
    names = OriginalNames(parse_unet_config(_unet_config(base)))
    for name, shape in shapes.items():
        if not name.endswith(".weight") or len(shape) < 2:
            continue
        path = name.removesuffix(".weight")
        try:
            diffusers = path if is_folder else names.back(path)
            inside = ".attentions." in diffusers
            if not inside and not (convolutions and _is_convolutional(diffusers)):
                continue
            module_names = names.of(diffusers) if base.family == "sdxl" else diffusers
        except KeyError:
            continue  # time embedding, head
        yield f"lora_unet_{module_names.replace('.', '_')}", shape


def _is_convolutional(path: str) -> bool:
    return any(part in path for part in _CONVOLUTIONAL)


def _unet_config(base: Base) -> dict[str, Any]:
    if base.layout == "diffusers":
        return json.loads((base.path / "unet" / "config.json").read_text(encoding="utf-8"))
    source = resources.files("tenner.engines.native") / "configs.json"
    return json.loads(source.read_text(encoding="utf-8"))[base.family]["unet"]


def _text_modules(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}_{name.removesuffix('.weight').replace('.', '_')}": shape
        for name, shape in shapes.items()
        if _TEXT_LAYERS.fullmatch(name.removesuffix(".weight"))
    }


def _checkpoint_text_modules(head: Shapes, family: Family) -> dict[str, tuple[int, ...]]:
    if family == "sd1":
        return _text_modules(_of_checkpoint(head, "cond_stage_model.transformer."), "lora_te")
    if family == "sd2":  # its last layer is not used, and sd-scripts leaves it out
        layers = _open_clip_modules(head, "cond_stage_model.model.", "lora_te")
        last = f"_{len(layers) // len(_TEXT_MODULES) - 1}_"
        return {name: shape for name, shape in layers.items() if last not in name}
    first = _of_checkpoint(head, "conditioner.embedders.0.transformer.")
    second = _open_clip_modules(head, "conditioner.embedders.1.model.", "lora_te2")
    return _text_modules(first, "lora_te1") | second


def _open_clip_modules(head: Shapes, prefix: str, encoder: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in _of_checkpoint(head, prefix).items():
        layer = _OPEN_CLIP_LAYER.fullmatch(name)
        if layer and len(shape) == 2:
            width = shape[1]
            for module in _TEXT_MODULES:
                wide = {"mlp_fc1": (4 * width, width), "mlp_fc2": (width, 4 * width)}
                module_name = f"{encoder}_text_model_encoder_layers_{layer[1]}_{module}"
                found[module_name] = wide.get(module, (width, width))
    return found


def _of_checkpoint(head: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {
        name.removeprefix(prefix): shape for name, shape in head.items() if name.startswith(prefix)
    }


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= _head(file)
    return found


def _head(file: Path) -> dict[str, tuple[int, ...]]:
    header = read_safetensors_header(file)
    header.pop("__metadata__", None)
    return {name: tuple(each["shape"]) for name, each in header.items()}
