"""Samples of LyCORIS's kinds of network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenner.kohya.networks import LYCORIS
from tenner.sample.job import SampleJob
from tests.sample.conftest import Run
from tests.sample.test_draw import Python, pictures, same


def made(python: Python, name: str, *arguments: str) -> str:
    code = (
        "import sys, tiny_models as t; from pathlib import Path;"
        f"print(t.{name}(*[Path(a) if '/' in a else float(a) if '.' in a else a"
        " for a in sys.argv[1:]]))"
    )
    done = python("-c", code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(params=["loha", "lokr", "dora", "dora-of-inputs", "ia3"])
def lycoris(
    request: pytest.FixtureRequest, job: SampleJob, python: Python, tmp_path: Path
) -> tuple[str, SampleJob]:
    file = tmp_path / f"{request.param}.safetensors"
    made(python, "make_lycoris", job.base, str(file), request.param)
    return request.param, replace(job, lora=str(file), network_module=LYCORIS)


def warnings(events: list[dict[str, Any]]) -> list[str]:
    return [each["text"] for each in events if each["event"] == "warning"]


def test_each_strength_is_the_update_in_the_weights(
    lycoris: tuple[str, SampleJob], draw: Run, python: Python, tmp_path: Path
) -> None:
    kind, job = lycoris
    strength = 1.0 if kind.startswith("dora") else 0.5
    code, events = draw(job)
    assert (code, warnings(events)) == (0, []), events
    drawn = pictures(job)
    bare = replace(job, lora=None, out_dir=str(tmp_path / "bare"))
    assert draw(bare)[0] == 0
    assert drawn[0.0, 1].read_bytes() == pictures(bare)[0.0, 1].read_bytes()
    assert not same(drawn[0.0, 1], drawn[0.5, 1])
    assert not same(drawn[0.5, 1], drawn[1.0, 1])
    merged = str(tmp_path / "merged")
    made(python, "merge_lycoris", job.base, str(job.lora), str(strength), merged)
    other = replace(job, base=merged, lora=None, out_dir=str(tmp_path / "other"))
    assert draw(other)[0] == 0
    assert same(drawn[strength, 1], pictures(other)[strength, 1])


def test_a_file_that_fits_in_part_is_reported(
    lycoris: tuple[str, SampleJob], draw: Run, tmp_path: Path
) -> None:
    _, job = lycoris
    tensors = load_file(str(job.lora))
    modules = sorted({name.partition(".")[0] for name in tensors})
    for name in [each for each in tensors if each.startswith(f"{modules[0]}.")]:
        tensors[name.replace(modules[0], "lora_unet_nowhere")] = tensors.pop(name)
    save_file(tensors, tmp_path / "part.safetensors")
    code, events = draw(replace(job, lora=str(tmp_path / "part.safetensors"), cells=job.cells[:1]))
    assert code == 0
    (text,) = warnings(events)
    number = len(modules)
    assert f"LyCORIS loaded {number - 1} of the {number} LoRA modules" in text


def test_sdxl_s_modules_have_their_names_of_the_original_layout(
    job: SampleJob, draw: Run, models: Path, tmp_path: Path
) -> None:
    """The first attention of the second level, the middle one, and both text encoders."""
    shapes = {
        "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q": (32, 32),
        "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k": (32, 64),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (32, 32),
        "lora_te2_text_model_encoder_layers_1_mlp_fc1": (64, 32),
    }
    tensors: dict[str, torch.Tensor] = {}
    for name, (rows, columns) in shapes.items():
        tensors[f"{name}.lokr_w1"] = torch.randn(4, 4)
        tensors[f"{name}.lokr_w2"] = torch.randn(rows // 4, columns // 4)
        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    file = tmp_path / "lokr.safetensors"
    save_file(tensors, file)
    found = replace(job, base=str(models / "sdxl"), family="sdxl", network_module=LYCORIS)
    code, events = draw(replace(found, lora=str(file)))
    assert (code, warnings(events)) == (0, []), events
    assert not same(pictures(found)[0.0, 1], pictures(found)[1.0, 1])
