"""Chroma's grid against pictures that sd-scripts' own functions draw, of a model of smaller sizes.

Opt-in as `test_sd_real.py`.
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tenner.base.tokenizers import write_clip_tokenizers
from tenner.families.transformers import T5_XXL
from tenner.sample.job import SAMPLES_FILE, Cell, SampleJob, Samples
from tests.engines.sd_scripts import shrunken
from tests.engines.sd_scripts.test_sd_real import ROOT

pytestmark = [
    pytest.mark.sd_scripts,
    pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set"),
    pytest.mark.timeout(2400),
]
ADAPTED = ("attn.qkv", "attn.proj", "mlp.0", "mlp.2", "linear1", "linear2")
T5_MODULE = "encoder_block_1_layer_0_SelfAttention_v"


def run(*words: str | Path) -> str:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'entrypoint'}:{Path(__file__).parent}"}
    python = os.environ["TENNER_TRAINER_PYTHON"]
    command = [python, *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    run(Path(shrunken.__file__), os.environ["SD_SCRIPTS_DIR"], folder, "chroma")
    for file in folder.glob("*.safetensors"):
        save_file(louder(load_file(file)), file)
    tokenizers = write_clip_tokenizers(folder / "tokenizers")
    t5 = Path(os.environ["SD_SCRIPTS_DIR"]) / "configs" / "t5_old"
    (tokenizers / T5_XXL).symlink_to(t5, target_is_directory=True)
    return folder


def louder(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights with which numbers stay as large as they are from layer to layer, so that the
    pictures differ."""
    torch.manual_seed(3)
    return {
        name: each
        if "embed" in name or "shared" in name
        else torch.randn(each.shape).div(each[0].numel() ** 0.5).to(each.dtype)
        if each.ndim > 1
        else torch.full_like(each, 0.0 if name.endswith("bias") else 1.0)
        for name, each in tensors.items()
    }


def write_lora(base: Path, file: Path) -> int:
    """A LoRA of all that sd-scripts adapts and of one module of T5; returns its modules' number."""
    torch.manual_seed(2)
    shapes: dict[str, tuple[int, int]] = {f"lora_te3_{T5_MODULE}": (16, 4096)}
    with safe_open(base, "pt") as weights:
        for name in list(weights.keys()):
            if "blocks." in name and name.removesuffix(".weight").endswith(ADAPTED):
                module = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
                shapes[module] = tuple(weights.get_slice(name).get_shape())
    lora: dict[str, torch.Tensor] = {}
    for module, (out, inputs) in shapes.items():
        lora[f"{module}.lora_down.weight"] = torch.randn(2, inputs) * 0.1
        lora[f"{module}.lora_up.weight"] = torch.randn(out, 2) * 0.3
        lora[f"{module}.alpha"] = torch.tensor(1.0)
    save_file(lora, file)
    return len(shapes)


def job_of(models: Path, lora: Path | None, out: Path) -> SampleJob:
    cells = [
        Cell(prompt="a sks star", negative_prompt="blurry, old", strength=strength, seed=seed)
        for strength in (0.0, 0.5, 1.0)
        for seed in (1, 2)
    ]
    return SampleJob(
        base=str(models / "Chroma1-Base.safetensors"),
        family="chroma",
        cells=tuple(cells),
        out_dir=str(out),
        lora=str(lora) if lora else None,
        tokenizers=str(models / "tokenizers"),
        trainer=os.environ["SD_SCRIPTS_DIR"],
        further={
            "t5xxl": str(models / "t5xxl_fp16.safetensors"),
            "ae": str(models / "ae.safetensors"),
        },
        width=96,
        height=64,
        steps=3,
        guidance_scale=3.0,
        batch_size=2,
    )


def drawn(job: SampleJob) -> tuple[list[np.ndarray], list[dict[str, object]]]:
    """The pictures of the job's cells, and the events of the process that drew them."""
    file = Path(job.out_dir).with_suffix(".json")
    file.write_text(job.to_json(), encoding="utf-8")
    lines = run("-m", "tenner.sample.draw", file).splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    listing = Path(job.out_dir) / SAMPLES_FILE
    pictures: list[np.ndarray] = []
    for each in Samples.read(listing).samples:
        with Image.open(listing.parent / each.file) as image:
            pictures.append(np.asarray(image).astype(float))
    return pictures, found


def test_each_cell_is_what_sd_scripts_draws_with_the_lora_merged(
    models: Path, tmp_path: Path
) -> None:
    lora = tmp_path / "lora.safetensors"
    write_lora(models / "Chroma1-Base.safetensors", lora)
    job = job_of(models, lora, tmp_path / "samples")
    pictures, events = drawn(job)
    assert len(pictures) == len(job.cells)
    assert {each.shape for each in pictures} == {(64, 96, 3)}
    assert not [each for each in events if each["event"] == "warning"]
    script = str(Path(__file__).with_name("draw_chroma.py"))
    job_file = str(tmp_path / "samples.json")
    right = tmp_path / "right.safetensors"
    run(script, os.environ["SD_SCRIPTS_DIR"], models, lora, job_file, right)
    for index, expected in load_file(right).items():
        off = np.abs(pictures[int(index)] - expected.numpy())
        assert off.max() < 2, job.cells[int(index)]
    assert np.abs(pictures[0] - pictures[4]).mean() > 1, "the LoRA changes the picture"
    assert np.abs(pictures[2] - pictures[4]).mean() > 1, "so does its strength"
    assert np.abs(pictures[0] - pictures[1]).mean() > 1, "and the seed"

    base, _ = drawn(replace(job, lora=None, cells=job.cells[:2], out_dir=str(tmp_path / "base")))
    assert all(np.array_equal(*each) for each in zip(base, pictures[:2], strict=True))


def test_a_lora_that_fits_in_part_is_reported(models: Path, tmp_path: Path) -> None:
    lora = tmp_path / "lora.safetensors"
    number = write_lora(models / "Chroma1-Base.safetensors", lora)
    tensors = load_file(lora)
    for each in [name for name in tensors if "single_blocks_0_linear2." in name]:
        tensors[each.replace("blocks_0", "blocks_7")] = tensors.pop(each)
    save_file(tensors, lora)
    job = job_of(models, lora, tmp_path / "samples")
    _, events = drawn(replace(job, cells=job.cells[:1]))
    (warning,) = [each for each in events if each["event"] == "warning"]
    assert f"sd-scripts loaded {number - 1} of the {number} LoRA modules" in str(warning["text"])


def test_in_bf16_the_picture_is_nearly_the_same(models: Path, tmp_path: Path) -> None:
    """As on a card: nearer than the LoRA's change."""
    lora = tmp_path / "lora.safetensors"
    write_lora(models / "Chroma1-Base.safetensors", lora)
    job = job_of(models, lora, tmp_path / "float32")
    job = replace(job, cells=(job.cells[0], job.cells[4]))
    exact, _ = drawn(job)
    rounded, _ = drawn(replace(job, dtype="bfloat16", out_dir=str(tmp_path / "bf16")))
    changed = np.abs(exact[0] - exact[1]).mean()
    for one, other in zip(exact, rounded, strict=True):
        assert np.abs(one - other).mean() < changed / 2
