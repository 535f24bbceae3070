"""The modules of sd-scripts' LoRAs of transformers, against what loads them.

ComfyUI (comfy/lora.py, `model_lora_keys_unet`) takes `lora_unet_` and the path of any `.weight` of
the model, dots as underscores; its models have the names of the single files that it loads, which
sd-scripts' models have too. diffusers' own names of SD 3 are `tenner.sample.sd3_lora`'s.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

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


def test_comfyui_takes_every_module_of_every_family(
    names: dict[str, dict[str, list[str]]],
) -> None:
    assert set(names) == {"flux", "flux-schnell", "chroma", "anima", *LAST}
    for family, found in names.items():
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
