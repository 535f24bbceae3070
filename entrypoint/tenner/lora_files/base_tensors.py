"""The positions of a base model's weights in its files, by the names of the modules in LoRA files.

Only headers are read. Checkpoints in the original layout, folders in diffusers' layout, and text
encoders of OpenCLIP, whose query, key and value are one tensor, all get the paths of kohya's,
PEFT's and diffusers' LoRA files.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tenner.core.family import Family
from tenner.core.network_parts import Part
from tenner.core.safetensors_head import weight_files
from tenner.engines.native.unet_config import parse_unet_config
from tenner.engines.native.unet_names import OriginalNames
from tenner.families import FAMILIES
from tenner.lora_files.modules import TensorEntry
from tenner.lora_files.names import underscored
from tenner.lora_files.reading import read_head

_CONFIGS = Path(__file__).parents[1] / "engines" / "native" / "configs.json"
_CHECKPOINT_PARTS: tuple[tuple[str, Part], ...] = (
    ("model.diffusion_model.", "unet"),
    ("cond_stage_model.transformer.", "text_encoder"),
    ("cond_stage_model.model.", "text_encoder"),
    ("conditioner.embedders.0.transformer.", "text_encoder"),
    ("conditioner.embedders.1.model.", "text_encoder_2"),
)
_FOLDER_PARTS: tuple[tuple[str, Part], ...] = (
    ("unet", "unet"),
    ("text_encoder", "text_encoder"),
    ("text_encoder_2", "text_encoder_2"),
)
_TRANSFORMER_PREFIXES = ("model.diffusion_model.", "net.")
_DENOISERS: tuple[Part, ...] = ("unet", "transformer")
_OPEN_CLIP_LAYERS = {
    "attn.out_proj.": "self_attn.out_proj",
    "mlp.c_fc.": "mlp.fc1",
    "mlp.c_proj.": "mlp.fc2",
}


@dataclass(frozen=True, kw_only=True)
class BaseWeight:
    """A weight of the base: a tensor of a file, or a third of one along its rows."""

    path: Path
    entry: TensorEntry


BaseWeights = Mapping[tuple[Part, str], BaseWeight]
"""Weights by network part and underscored path, as `LoraModule.part` and `plain_path` are."""


def base_weights(path: Path, family: Family) -> BaseWeights:
    """The weights of two dimensions or more of the base at `path`.

    Raises SettingsError or OSError where it cannot be read; what is of another architecture is
    found by the names that it has itself.
    """
    if path.is_dir():
        return dict(_of_folder(path))
    if FAMILIES[family].transformer:
        return dict(_of_transformer(path))
    return dict(_of_checkpoint(path, family))


def _of_transformer(path: Path) -> Iterator[tuple[tuple[Part, str], BaseWeight]]:
    """sd-scripts names its modules as the file does; of which part they are, their names tell."""
    for entry in _matrices(path):
        name = entry.name
        for prefix in _TRANSFORMER_PREFIXES:
            name = name.removeprefix(prefix)
        found = BaseWeight(path=path, entry=entry)
        for part in _DENOISERS:
            yield (part, underscored(name.removesuffix(".weight"))), found


def _of_folder(path: Path) -> Iterator[tuple[tuple[Part, str], BaseWeight]]:
    for folder, part in _FOLDER_PARTS:
        for file in weight_files(path / folder):
            config = path / "unet" / "config.json"
            names = _unet_names(json.loads(config.read_text("utf-8"))) if part == "unet" else None
            for entry in _matrices(file):
                for found in _named(part, entry, names, original=False):
                    yield (part, underscored(found[0])), BaseWeight(path=file, entry=found[1])


def _of_checkpoint(path: Path, family: Family) -> Iterator[tuple[tuple[Part, str], BaseWeight]]:
    names = _unet_names(json.loads(_CONFIGS.read_text("utf-8"))[family]["unet"])
    for entry in _matrices(path):
        for prefix, part in _CHECKPOINT_PARTS:
            if entry.name.startswith(prefix):
                inner = replace(entry, name=entry.name.removeprefix(prefix))
                own = names if part == "unet" else None
                for found in _named(part, inner, own, original=True):
                    yield (part, underscored(found[0])), BaseWeight(path=path, entry=found[1])


def _matrices(path: Path) -> Iterator[TensorEntry]:
    return (entry for entry in read_head(path)[1] if len(entry.shape) >= 2)


def _unet_names(config: Mapping[str, Any]) -> OriginalNames | None:
    try:
        return OriginalNames(parse_unet_config(config))
    except (KeyError, ValueError):
        return None


def _named(
    part: Part, entry: TensorEntry, names: OriginalNames | None, *, original: bool
) -> Iterator[tuple[str, TensorEntry]]:
    """A tensor under each path that a LoRA may call its module by. `original` is the layout that
    the tensor's own name is of."""
    joined = re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_weight", entry.name)
    if joined:
        yield from _thirds(int(joined[1]), entry)
        return
    path = entry.name.removesuffix(".weight")
    if part == "unet":
        yield path, entry
        if names is not None:
            try:
                yield (names.back(path) if original else names.of(path)), entry
            except KeyError:
                return
        return
    layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+\.)weight", entry.name)
    if layer and layer[2] in _OPEN_CLIP_LAYERS:
        yield f"text_model.encoder.layers.{layer[1]}.{_OPEN_CLIP_LAYERS[layer[2]]}", entry
    elif path.startswith("encoder."):  # checkpoints made from some conversions leave it out
        yield f"text_model.{path}", entry
    else:
        yield path, entry


def _thirds(layer: int, entry: TensorEntry) -> Iterator[tuple[str, TensorEntry]]:
    rows, size = entry.shape[0] // 3, (entry.end - entry.start) // 3
    for index, letter in enumerate("qkv"):
        start = entry.start + index * size
        piece = replace(entry, shape=(rows, *entry.shape[1:]), start=start, end=start + size)
        yield f"text_model.encoder.layers.{layer}.self_attn.{letter}_proj", piece
