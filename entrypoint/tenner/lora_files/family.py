"""Which family of base models a LoRA was made for."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from tenner.core.family import Family
from tenner.families import FAMILIES, FAMILY_NAMES
from tenner.lora_files.modules import LoraModule

_CONTEXT_WIDTHS: dict[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""What the cross-attention of each family's U-Net reads: its text encoders' width."""
_ATTENDS_TEXT = re.compile(r".*attn2[._]to_[kv]")
_METADATA_FAMILIES: tuple[tuple[str, Family], ...] = (
    ("sdxl", "sdxl"),
    ("stable-diffusion-xl", "sdxl"),
    ("sd_v2", "sd2"),
    ("stable-diffusion-v2", "sd2"),
    ("sd_v1", "sd1"),
    ("stable-diffusion-v1", "sd1"),
)
_LUMINA_LAYERS = 26
"""Models of the same kind and more layers are others'."""
_FLUX = re.compile(r"double_blocks|single_blocks|single_transformer_blocks")
_SD3 = re.compile(r"joint_blocks")
_ANIMA = re.compile(r"blocks_\d+_(self_attn|cross_attn|mlp|adaln)")
_LUMINA = re.compile(
    r"(layers|noise_refiner|context_refiner)_(\d+)_(attention_(qkv|out)|feed_forward|adaLN)"
)
_DOUBLE_ATTENTION = re.compile(r"joint_blocks[._]\d+[._]x_block[._]attn2")


def family_of(
    modules: Sequence[LoraModule], metadata: Mapping[str, str]
) -> tuple[Family | None, str, str]:
    """(family, its evidence, architecture). Shapes are stronger evidence than names, these than the
    metadata; a small model of unusual widths is recognised by its metadata alone."""
    if any(each.part == "transformer" for each in modules):
        family, architecture = _of_transformer(modules, metadata)
        return family, "names", FAMILY_NAMES[family] if family else architecture
    by = _by_shapes(modules) or _by_names(modules) or _by_metadata(metadata)
    if by is None:
        return None, "", "unknown"
    return by[0], by[1], FAMILY_NAMES[by[0]]


def _of_transformer(
    modules: Sequence[LoraModule], metadata: Mapping[str, str]
) -> tuple[Family | None, str]:
    """The family of a transformer's LoRA, and what else it is. Chroma has FLUX.1's names without
    its modulations; only the metadata distinguishes it from a FLUX.1 LoRA that leaves them out.
    HunyuanImage has the same names too, and another width."""
    paths = [each.path for each in modules if each.part == "transformer"]
    if any(_FLUX.match(path) for path in paths):
        keys = ("ss_base_model_version", "modelspec.architecture")
        base = " ".join(metadata.get(key, "") for key in keys)
        widths = {each.in_features for each in modules if each.path.endswith("img_attn_qkv")}
        if "hunyuan" in base.lower() or widths & set(FAMILIES["hunyuan-image"].lora_widths):
            return "hunyuan-image", "HunyuanImage 2.1"
        return ("chroma" if "chroma" in base.lower() else "flux"), "FLUX.1"
    if any(_SD3.match(path) for path in paths):
        return _of_sd3(modules), "Stable Diffusion 3"
    if any(_ANIMA.match(path) for path in paths):
        return "anima", "Anima"
    layers = [int(found[2]) for path in paths if (found := _LUMINA.match(path))]
    if layers and max(layers) < _LUMINA_LAYERS:
        return "lumina2", "Lumina Image 2.0"
    return None, "a transformer model"


def _of_sd3(modules: Sequence[LoraModule]) -> Family | None:
    """By the second attention, which 3.5 Medium alone has, and the width; None for others."""
    if any(_DOUBLE_ATTENTION.match(each.path) for each in modules):
        return "sd35-medium"
    widths = {each.in_features for each in modules if each.path.endswith("attn_qkv")}
    found = (n for n in ("sd3", "sd35-large") if widths & set(FAMILIES[n].lora_widths))
    return next(found, None)


def _by_shapes(modules: Sequence[LoraModule]) -> tuple[Family, str] | None:
    widths = Counter(
        each.in_features
        for each in modules
        if each.part == "unet" and _ATTENDS_TEXT.match(each.path)
    )
    for width, _ in widths.most_common():
        if width in _CONTEXT_WIDTHS:
            return _CONTEXT_WIDTHS[width], "shapes"
    if any(each.part == "unet" for each in modules):
        return None
    text = {each.part: each.in_features for each in modules if "q_proj" in each.path}
    if "text_encoder_2" in text or any(each.name.startswith("lora_te1_") for each in modules):
        return ("sdxl", "shapes") if text.get("text_encoder_2", 1280) == 1280 else None
    width = text.get("text_encoder")
    known: dict[int | None, Family] = {768: "sd1", 1024: "sd2"}
    return (known[width], "shapes") if width in known else None


def _by_names(modules: Sequence[LoraModule]) -> tuple[Family, str] | None:
    """SDXL alone has two text encoders, and ten transformer blocks in the middle."""
    deep = re.compile(r"(mid_block|middle_block)[._].*transformer_blocks[._]9[._]")
    if any(each.part == "unet" and deep.match(each.path) for each in modules):
        return "sdxl", "names"
    return None


def _by_metadata(metadata: Mapping[str, str]) -> tuple[Family, str] | None:
    for key in ("ss_base_model_version", "modelspec.architecture"):
        value = metadata.get(key, "").lower()
        for beginning, family in _METADATA_FAMILIES:
            if value.startswith(beginning):
                return family, key
    if metadata.get("ss_v2", "").lower() == "true":
        return "sd2", "ss_v2"
    return None
