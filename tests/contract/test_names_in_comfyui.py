"""The modules of sd-scripts' LoRAs of transformers, against what loads them.

ComfyUI (comfy/lora.py, `model_lora_keys_unet`) takes `lora_unet_` and the path of any `.weight` of
the model, dots as underscores; its models have the names of the single files that it loads, which
sd-scripts' models have too. Of text encoders (`model_lora_keys_clip`) it takes CLIP's layers as
`lora_te1_` and `lora_te2_` (one alone also as `lora_te_`), and T5's modules under the number after
CLIP's: 3 with CLIP-L, and 1 without any CLIP. diffusers' own names of SD 3 are
`tenner.sample.sd3_lora`'s.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from tenner.families import FAMILIES
from tenner.sample.sd3_lora import renamed
from tests.families import lora_names

pytestmark = [
    pytest.mark.sd_scripts,
    pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set"),
]
LAST = {"sd3": 24, "sd35-medium": 24, "sd35-large": 38}


@pytest.fixture(scope="module")
def names() -> dict[str, dict[str, list[str]]]:
    python, script = os.environ["TENNER_TRAINER_PYTHON"], str(Path(lora_names.__file__))
    words = (python, script, os.environ["SD_SCRIPTS_DIR"])
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


_CLIP = re.compile(
    r"(clip_[lg])\.transformer\.(text_model\.encoder\.layers\.\d+\."
    r"(?:mlp\.fc[12]|self_attn\.[kqv]_proj|self_attn\.out_proj))\.weight"
)
_T5 = re.compile(r"t5xxl\.transformer\.(.+)\.weight")


def taken_of_text(encoders: list[str]) -> set[str]:
    """The names of modules of text encoders that ComfyUI's table has."""
    has = {
        each: any(name.startswith(f"{each}.") for name in encoders) for each in ("clip_l", "clip_g")
    }
    t5 = 1 + has["clip_g"] + has["clip_l"]
    t5_numbers = {2, 3} if t5 == 2 and has["clip_l"] else {t5}
    prefixes = {"clip_l": ("te", "te1"), "clip_g": ("te2",) if has["clip_l"] else ("te",)}
    found: set[str] = set()
    for name in encoders:
        if match := _CLIP.fullmatch(name):
            module = match[2].replace(".", "_")
            found |= {f"lora_{prefix}_{module}" for prefix in prefixes[match[1]]}
        elif match := _T5.fullmatch(name):
            found |= {f"lora_te{each}_{match[1].replace('.', '_')}" for each in t5_numbers}
    return found


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux", "sd3"])
def test_comfyui_takes_every_module_of_the_text_encoders(
    names: dict[str, dict[str, list[str]]], family: str
) -> None:
    text = set(names[family]["text"])
    assert len(text) >= 12 * 6
    assert text <= taken_of_text(names[family]["encoders"])


def test_comfyui_takes_none_of_chromas_t5(names: dict[str, dict[str, list[str]]]) -> None:
    """sd-scripts calls it the third encoder, and ComfyUI's Chroma has no other: documented."""
    text = names["chroma"]["text"]
    assert len(text) > 100
    assert all(each.startswith("lora_te3_encoder_block_") for each in text)
    assert not taken_of_text(names["chroma"]["encoders"]).intersection(text)
    page = Path(__file__).parents[2] / "docs" / "families.md"
    assert "`lora_te3`" in page.read_text(encoding="utf-8")


def test_comfyui_takes_every_module_of_every_family(
    names: dict[str, dict[str, list[str]]],
) -> None:
    families = {family: found for family, found in names.items() if "modules" in found}
    assert set(families) == {name for name, facts in FAMILIES.items() if facts.transformer}
    for family, found in families.items():
        if converter := FAMILIES[family].comfyui_converter:
            assert Path(os.environ["SD_SCRIPTS_DIR"], converter).is_file()
            continue  # ComfyUI has names of its own for it
        weights = [each for each in found["weights"] if each.endswith(".weight")]
        taken = {f"lora_unet_{each.removesuffix('.weight').replace('.', '_')}" for each in weights}
        assert len(found["modules"]) > 100, family
        assert set(found["modules"]) <= taken, family


@pytest.mark.parametrize("family", sorted(LAST))
def test_every_module_of_stable_diffusion_3_has_a_name_in_diffusers(
    names: dict[str, dict[str, list[str]]], family: str
) -> None:
    lora: dict[str, torch.Tensor] = {}
    for each in names[family]["modules"]:
        lora |= {f"{each}.lora_down.weight": torch.ones(1, 6)}
        lora |= {f"{each}.lora_up.weight": torch.ones(6, 1)}
    assert renamed(lora, LAST[family]).unknown == ()
