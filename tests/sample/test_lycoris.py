"""Samples of LyCORIS's kinds of network."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tenner.kohya.networks import LYCORIS
from tenner.sample.job import SampleJob
from tests.sample.conftest import Run
from tests.sample.test_draw import Python, pictures, same

STRENGTHS = {"loha": 0.5, "lokr": 0.5, "dora": 1.0, "dora-of-inputs": 1.0, "ia3": 0.5}
"""Where the update in the weights is known: a DoRA's at other strengths is LyCORIS's own."""


def warnings(events: list[dict[str, Any]]) -> list[str]:
    return [each["text"] for each in events if each["event"] == "warning"]


PROGRAM = """
import sys, tiny_models as t
from pathlib import Path
from tenner.sample.draw import main
base, file, merged, kind, strength, *jobs = sys.argv[1:]
t.make_lycoris(Path(base), Path(file), kind)
t.merge_lycoris(Path(base), Path(file), float(strength), Path(merged))
assert [main([each]) for each in jobs] == [0] * len(jobs)
"""
"""A network of this kind, the base with it in its weights, and jobs that are drawn."""


def run(python: Python, kind: str, base: str, folder: Path, *jobs: SampleJob) -> list[Any]:
    """The events of the jobs. The network is `network.safetensors`, the changed base `merged`."""
    files = [Path(each.out_dir).with_suffix(".json") for each in jobs]
    for file, job in zip(files, jobs, strict=True):
        file.write_text(job.to_json(), encoding="utf-8")
    given = (base, folder / "network.safetensors", folder / "merged", kind, STRENGTHS[kind])
    done = python("-c", PROGRAM, *map(str, (*given, *files)))
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("kind", STRENGTHS)
def test_a_strength_is_the_update_in_the_weights(
    job: SampleJob, python: Python, tmp_path: Path, kind: str
) -> None:
    """At strength 0 it is the base, bit for bit."""
    cells = tuple(replace(job.cells[0], strength=each) for each in (0.0, 0.25, STRENGTHS[kind]))
    network = replace(
        job, cells=cells, lora=str(tmp_path / "network.safetensors"), network_module=LYCORIS
    )
    merged = replace(job, base=str(tmp_path / "merged"), lora=None, cells=cells[2:])
    merged = replace(merged, out_dir=str(tmp_path / "with-merged"))
    bare = replace(job, lora=None, cells=cells[:1], out_dir=str(tmp_path / "bare"))
    assert warnings(run(python, kind, job.base, tmp_path, network, merged, bare)) == []
    drawn = pictures(network)
    assert same(drawn[STRENGTHS[kind], 1], pictures(merged)[STRENGTHS[kind], 1])
    assert not same(drawn[0.0, 1], drawn[0.25, 1])
    assert not same(drawn[0.25, 1], drawn[STRENGTHS[kind], 1])
    assert pixels(drawn[0.0, 1]) == pixels(pictures(bare)[0.0, 1])


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def test_a_file_that_fits_in_part_is_reported(
    job: SampleJob, draw: Run, python: Python, tmp_path: Path
) -> None:
    run(python, "loha", job.base, tmp_path)
    tensors = load_file(tmp_path / "network.safetensors")
    modules = sorted({name.partition(".")[0] for name in tensors})
    for name in [each for each in tensors if each.startswith(f"{modules[0]}.")]:
        tensors[name.replace(modules[0], "lora_unet_nowhere")] = tensors.pop(name)
    save_file(tensors, tmp_path / "part.safetensors")
    part = replace(job, lora=str(tmp_path / "part.safetensors"), network_module=LYCORIS)
    code, events = draw(replace(part, cells=job.cells[:1]))
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
    cells = (job.cells[0], job.cells[2])
    sdxl = replace(job, base=str(models / "sdxl"), family="sdxl", cells=cells)
    found = replace(sdxl, network_module=LYCORIS)
    code, events = draw(replace(found, lora=str(file)))
    assert (code, warnings(events)) == (0, []), events
    assert not same(pictures(found)[0.0, 1], pictures(found)[1.0, 1])
