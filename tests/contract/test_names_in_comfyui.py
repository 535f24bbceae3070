"""The modules of sd-scripts' LoRAs of transformers, against what loads them.

ComfyUI (comfy/lora.py, `model_lora_keys_unet`) takes `lora_unet_` and the path of any `.weight` of
the model, dots as underscores; its models have the names of the single files that it loads, which
sd-scripts' models have too. Of text encoders (`model_lora_keys_clip`) it takes CLIP's layers as
`lora_te1_` and `lora_te2_` (one alone also as `lora_te_`), and T5's modules under the number after
CLIP's: 3 with CLIP-L, and 1 without any CLIP. Where the text encoder is one language model (Gemma 2
of Lumina Image 2, Qwen3 of Anima), it takes `lora_te_` and the path of any of its modules, since
its pull request 13847. diffusers' own names of SD 3 are `tenner.sample.sd3_lora`'s.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from tenner.families import FAMILIES
from tenner.kohya.networks import IA3, PRESETS
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
_LANGUAGE_MODEL = re.compile(r"(\w+)\.transformer\.model\.(.+)\.weight")


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
        elif match := _LANGUAGE_MODEL.fullmatch(name):
            assert all(each.startswith(f"{match[1]}.") for each in encoders)
            found |= {f"lora_te_{match[2].replace('.', '_')}"}
    return found


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux", "sd3", "lumina2", "anima"])
def test_comfyui_takes_every_module_of_the_text_encoders(
    names: dict[str, dict[str, list[str]]], family: str
) -> None:
    text = set(names[family]["text"])
    assert len(text) >= 12 * 6
    assert text <= taken_of_text(names[family]["encoders"])


def test_comfyui_takes_none_of_chromas_t5(names: dict[str, dict[str, list[str]]]) -> None:
    """sd-scripts calls it the third encoder, and ComfyUI's Chroma has no other: reported, and
    documented."""
    text = names["chroma"]["text"]
    assert len(text) > 100
    assert all(each.startswith("lora_te3_encoder_block_") for each in text)
    assert not taken_of_text(names["chroma"]["encoders"]).intersection(text)
    left_out = FAMILIES["chroma"].left_out_by_comfyui(None, {"train_t5xxl": True})
    assert left_out is not None
    assert "lora_te3" in left_out.text
    page = Path(__file__).parents[2] / "docs" / "families.md"
    assert "`lora_te3`" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["sdxl", "flux", "sd3"])
def test_comfyui_takes_what_lycoris_adapts_of_clip(
    names: dict[str, dict[str, list[str]]], family: str
) -> None:
    text = set(names[family]["lycoris_text"])
    assert len(text) >= 12 * 6
    assert text <= taken_of_text(names[family]["encoders"])


def test_comfyui_takes_nothing_that_lycoris_adapts_of_gemma(
    names: dict[str, dict[str, list[str]]],
) -> None:
    text = names["lumina2"]["lycoris_text"]
    assert len(text) == len(names["lumina2"]["text"])
    assert all(each.startswith("lora_te1_layers_") for each in text)
    assert not taken_of_text(names["lumina2"]["encoders"]).intersection(text)
    found = FAMILIES["lumina2"].left_out_by_comfyui("lycoris.kohya", {})
    assert found is not None
    assert "lora_te1" in found.text


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"sd1", "sd2", "sdxl"}))
def test_lycoris_adapts_the_blocks_of_a_family_but_by_presets_that_are_refused(
    names: dict[str, dict[str, dict[str, list[str]]]], family: str
) -> None:
    for preset, modules in names[family]["lycoris"].items():
        of_blocks = [each for each in modules if "final_layer" not in each]
        refused = preset in FAMILIES[family].lycoris_passes_over
        assert (len(of_blocks) == 0) == refused, preset
        assert refused or len(of_blocks) > 70, preset
    assert set(FAMILIES[family].lycoris_passes_over) <= set(PRESETS)
    assert set(names[family]["lycoris"]) == set(PRESETS) - {IA3}


def test_ia3_by_its_preset_adapts_nothing_of_a_transformer(
    names: dict[str, dict[str, list[str]]],
) -> None:
    transformers = {name for name, facts in FAMILIES.items() if facts.transformer}
    assert {family: names[family]["ia3"] for family in transformers} == {
        family: [] for family in transformers
    }


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
