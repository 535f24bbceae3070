"""The archive for Civitai: what its form needs, from the files in a run's directory."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tenner.cli.main import main
from tenner.core.run_dir import RunDir
from tenner.families import FAMILIES
from tenner.runs.civitai import base_model_name
from tenner.sample.job import Cell, Sample, Samples

PARAMETERS = "a sks cat <lora:cat:0.8>\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 8x8"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "output" / "cat").create()
    (run.checkpoints / "cat.safetensors").write_bytes(b"weights")
    run.settings.write_text('output_name = "cat"\n')
    base = {"family": "sdxl", "name": "pony", "hub_id": "AstraliteHeart/pony-diffusion-v6"}
    options = {"network_dim": 16, "network_alpha": 8.0, "unet_lr": 1e-4}
    run.plan.write_text(json.dumps({"base": base, "num_steps": 100, "options": options}))
    run.dataset.write_text(json.dumps({"trigger": "sks cat", "num_images": 20}))
    folder = run.samples / "final"
    folder.mkdir()
    cells = [
        Cell(prompt="a sks cat", strength=strength, seed=1, group="a sks cat", ema=ema)
        for strength, ema in ((0.0, False), (0.8, False), (0.8, True))
    ]
    for number in range(len(cells)):
        words = PngInfo()
        words.add_text("parameters", PARAMETERS if number == 1 else "another")
        Image.new("RGB", (8, 8)).save(folder / f"{number}.png", pnginfo=words)
    samples = [
        Sample(cell=cell, file=f"{number}.png", width=8, height=8)
        for number, cell in enumerate(cells)
    ]
    (folder / "samples.json").write_text(Samples(samples=tuple(samples)).to_json())
    return run


def test_a_run_is_packed_and_delivered_with_what_the_form_needs(run: RunDir) -> None:
    there = run.path / "there"
    words = ("--deliver-for", "civitai", "--destinations", f"file://{there}")
    assert main(["deliver", str(run.path), *words]) == 0
    manifest = json.loads((there / "manifest.json").read_text())
    assert "cat-civitai.zip" in {each["name"] for each in manifest["files"]}
    with zipfile.ZipFile(there / "cat-civitai.zip") as archive:
        assert archive.read("cat.safetensors") == b"weights"
        facts = json.loads(archive.read("civitai.json"))
        assert facts["baseModel"] == "Pony"
        assert facts["trainedWords"] == ["sks cat"]
        assert facts["images"] == ["cat-1.png"]
        assert "20 images" in facts["description"]
        with Image.open(io.BytesIO(archive.read("cat-1.png"))) as preview:
            assert preview.info["parameters"] == PARAMETERS
    before = (there / "cat-civitai.zip").read_bytes()
    assert main(["deliver", str(run.path), *words]) == 0
    assert (there / "cat-civitai.zip").read_bytes() == before


@pytest.mark.parametrize(
    ("family", "name", "civitai"),
    [
        ("sd1", "stable-diffusion-v1-5/stable-diffusion-v1-5", "SD 1.5"),
        ("sd1", "CompVis/stable-diffusion-v1-4", "SD 1.4"),
        ("sd2", "stabilityai/stable-diffusion-2-1", "SD 2.1"),
        ("sd2", "stabilityai/stable-diffusion-2-base", "SD 2.0"),
        ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0", "SDXL 1.0"),
        ("sdxl", "OnomaAIResearch/Illustrious-XL-v2.0", "Illustrious"),
        ("sdxl", "Laxhar/noobai-XL-1.1", "NoobAI"),
        ("sdxl", "someone/chromaXL", "SDXL 1.0"),
        ("sd35-medium", "mine.safetensors", "SD 3.5 Medium"),
        ("flux", "black-forest-labs/FLUX.1-Krea-dev", "Flux.1 Krea"),
        ("flux-schnell", "mine.safetensors", "Flux.1 S"),
        ("flux", "someone/pony-flux", "Flux.1 D"),
        ("lumina2", "Alpha-VLLM/Lumina-Image-2.0", "Lumina"),
        ("anima", "circlestone-labs/Anima", "Anima"),
        ("hunyuan-image", "tencent/HunyuanImage-2.1", "Other"),
        ("unheard", "of", "Other"),
    ],
)
def test_the_base_is_named_as_civitai_spells_it(family: str, name: str, civitai: str) -> None:
    assert base_model_name(family, name) == civitai


def test_every_family_but_those_civitai_does_not_list_has_a_name() -> None:
    unlisted = {family for family in FAMILIES if base_model_name(family, "") == "Other"}
    assert unlisted == {"hunyuan-image"}
