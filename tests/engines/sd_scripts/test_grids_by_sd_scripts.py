"""Grids of Anima, Lumina Image 2 and HunyuanImage against pictures that sd-scripts' own inference
scripts draw, of models of smaller sizes; LyCORIS over these and over FLUX.1 against merged weights.

Opt-in as `test_sd_real.py`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tenner.base.hub_tokenizers import write_tokenizers
from tenner.base.tokenizers import write_clip_tokenizers
from tenner.core.family import Family
from tenner.families import FAMILIES
from tenner.families.transformers import T5_XXL
from tenner.kohya.networks import LYCORIS
from tenner.sample.job import Cell, SampleJob
from tests.engines.sd_scripts import shrunken
from tests.engines.sd_scripts.test_chroma_grid import drawn, louder, run
from tests.engines.sd_scripts.test_hub_families_real import TOKENIZERS

pytestmark = [
    pytest.mark.sd_scripts,
    pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set"),
    pytest.mark.timeout(2400),
]
SCRIPT = Path(__file__).with_name("draw_minimal.py")
PROMPTS = ("a sks star", 'a shield with the words "sks star"')


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A family's base and how it is drawn: HunyuanImage's guidance changes after step 5."""

    family: Family
    base: str
    further: dict[str, str]
    steps: int = 3


FAMILY = (
    Drawn(
        family="anima",
        base="anima-preview.safetensors",
        further={"qwen3": "qwen_3_06b_base.safetensors", "vae": "qwen_image_vae.safetensors"},
    ),
    Drawn(
        family="lumina2",
        base="lumina_2_model_bf16.safetensors",
        further={"gemma2": "gemma_2_2b_fp16.safetensors", "ae": "ae.safetensors"},
    ),
    Drawn(
        family="hunyuan-image",
        base="hunyuanimage2.1.safetensors",
        further={
            "text_encoder": "qwen_2.5_vl_7b.safetensors",
            "byt5": "byt5_small_glyphxl_fp16.safetensors",
            "vae": "hunyuan_image_2.1_vae_fp16.safetensors",
        },
        steps=8,
    ),
)


FLUX = Drawn(
    family="flux",
    base="flux1-dev.safetensors",
    further={
        "clip_l": "clip_l.safetensors",
        "t5xxl": "t5xxl_fp16.safetensors",
        "ae": "ae.safetensors",
    },
)


@pytest.fixture(scope="module", params=FAMILY, ids=lambda each: each.family)
def job(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SampleJob]:
    """Two prompts at three strengths, with a LoRA of all that sd-scripts adapts."""
    job = job_of(request.param, tmp_path_factory.mktemp("models"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(job.tokenizers))
        patch.setenv("HF_HUB_OFFLINE", "1")
        job_file = Path(job.out_dir).with_name("job.json")
        run(SCRIPT, "lora", os.environ["SD_SCRIPTS_DIR"], job_file, str(job.lora))
        yield job


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> SampleJob:
    return job_of(FLUX, tmp_path_factory.mktemp("models"))


def job_of(kind: Drawn, folder: Path) -> SampleJob:
    """Two prompts at three strengths; the models are made."""
    real = os.environ["SD_SCRIPTS_DIR"]
    run(Path(shrunken.__file__), real, folder, kind.family)
    for file in folder.glob("*.safetensors"):
        save_file(louder(load_file(file)), file)
    cells = [
        Cell(prompt=prompt, negative_prompt="blurry, old", strength=strength, seed=seed)
        for strength in (0.0, 0.5, 1.0)
        for seed, prompt in enumerate(PROMPTS, 1)
    ]
    job = SampleJob(
        base=str(folder / kind.base),
        family=kind.family,
        cells=tuple(cells),
        out_dir=str(folder / "samples"),
        lora=str(folder / "lora.safetensors"),
        tokenizers=str(tokenizers(kind.family, folder)),
        trainer=str(shrunken.sd_scripts(folder / "sd-scripts", Path(real))),
        further={option: str(folder / name) for option, name in kind.further.items()},
        options={"system_prompt": "Draw well."},
        width=96,
        height=64,
        steps=kind.steps,
        guidance_scale=3.0,
        batch_size=2,
    )
    (folder / "job.json").write_text(job.to_json(), encoding="utf-8")
    return job


def tokenizers(family: Family, folder: Path) -> Path:
    """A cache of the Hub's with small tokenizers."""
    files: dict[str, Path] = {}
    for each in FAMILIES[family].hub_tokenizers:
        own = folder / "hub" / each.hub_id
        own.mkdir(parents=True)
        TOKENIZERS[each.hub_id](own)
        files |= {f"{each.hub_id}/{name}": own / name for name in each.files}
    cache = write_clip_tokenizers(folder / "tokenizers")
    write_tokenizers(cache, family, files)
    t5 = Path(os.environ["SD_SCRIPTS_DIR"]) / "configs" / "t5_old"
    (cache / T5_XXL).symlink_to(t5, target_is_directory=True)
    return cache


def test_each_cell_is_what_the_inference_script_draws(job: SampleJob, tmp_path: Path) -> None:
    pictures, events = drawn(replace(job, out_dir=str(tmp_path / "samples")))
    assert {each.shape for each in pictures} == {(64, 96, 3)}
    assert not [each for each in events if each["event"] == "warning"]
    job_file = tmp_path / "samples.json"
    right = tmp_path / "right.safetensors"
    run(SCRIPT, "draw", os.environ["SD_SCRIPTS_DIR"], job_file, right)
    for index, expected in load_file(right).items():
        off = np.abs(pictures[int(index)] - expected.numpy())
        assert off.max() < 2, job.cells[int(index)]
    assert np.abs(pictures[0] - pictures[4]).mean() > 1, "the LoRA changes the picture"
    assert np.abs(pictures[2] - pictures[4]).mean() > 1, "so does its strength"
    assert np.abs(pictures[0] - pictures[1]).mean() > 1, "and the seed with the prompt"

    base, _ = drawn(replace(job, lora=None, cells=job.cells[:2], out_dir=str(tmp_path / "base")))
    assert all(np.array_equal(*each) for each in zip(base, pictures[:2], strict=True))


def write_lokr(base: str, lokr: Path, merged: Path) -> int:
    """A LoKr of all linear layers in blocks, and the base with it in its weights."""
    torch.manual_seed(5)
    tensors = load_file(base)
    found: dict[str, torch.Tensor] = {}
    for name, weight in tensors.items():
        if ("blocks." in name or "layers." in name) and weight.ndim == 2:
            path = name.removeprefix("net.").removesuffix(".weight").replace(".", "_")
            rows, columns = weight.shape
            first, second = torch.randn(4, 4), torch.randn(rows // 4, columns // 4) * 0.02
            module = f"lora_unet_{path}"
            found[f"{module}.lokr_w1"], found[f"{module}.lokr_w2"] = first, second
            found[f"{module}.alpha"] = torch.tensor(1.0)
            tensors[name] = weight.float() + torch.kron(first, second)
    save_file(found, lokr)
    save_file(tensors, merged)
    return len(found) // 3


def assert_lokr_is_drawn(job: SampleJob, folder: Path) -> None:
    """At strength 1 as if it were in the weights, at 0 the base bit for bit."""
    lokr, merged = folder / "lokr.safetensors", folder / Path(job.base).name
    assert write_lokr(job.base, lokr, merged) >= 4
    cells = (job.cells[0], job.cells[4])
    plain = replace(job, lora=None, cells=cells[:1], network_module=LYCORIS)
    with_lokr = replace(plain, lora=str(lokr), cells=cells, out_dir=str(folder / "lokr"))
    (base, drawn_with), events = drawn(with_lokr)
    assert not [each for each in events if each["event"] == "warning"]
    ((without,), _), ((expected,), _) = (
        drawn(replace(plain, out_dir=str(folder / "base"))),
        drawn(replace(plain, base=str(merged), out_dir=str(folder / "merged"))),
    )
    assert np.array_equal(base, without)
    assert np.abs(drawn_with - expected).max() < 2
    assert np.abs(drawn_with - base).mean() > 1


def test_lycoris_is_drawn_as_if_it_were_in_the_weights(job: SampleJob, tmp_path: Path) -> None:
    assert_lokr_is_drawn(job, tmp_path)


def test_lycoris_over_flux_is_drawn_over_the_picture_that_diffusers_draws(
    flux: SampleJob, tmp_path: Path
) -> None:
    assert_lokr_is_drawn(flux, tmp_path)
    by_diffusers = replace(flux, lora=None, cells=flux.cells[:2])
    by_trainer = replace(by_diffusers, network_module=LYCORIS, out_dir=str(tmp_path / "trainer"))
    for one, other in zip(drawn(by_diffusers)[0], drawn(by_trainer)[0], strict=True):
        assert np.abs(one - other).max() < 2


def assert_drawn_in_bf16(job: SampleJob, folder: Path) -> None:
    """As on a card: nearly what is drawn in float32, and with the LoRA another picture."""
    cells = (job.cells[0], job.cells[4])
    exact, _ = drawn(replace(job, cells=cells, out_dir=str(folder / "float32")))
    half = replace(job, cells=cells, dtype="bfloat16", out_dir=str(folder / "bf16"))
    rounded, _ = drawn(half)
    changed = np.abs(exact[0] - exact[1]).mean()
    for one, other in zip(exact, rounded, strict=True):
        assert np.abs(one - other).mean() < changed / 2


def test_in_bf16_the_picture_is_nearly_the_same(job: SampleJob, tmp_path: Path) -> None:
    assert_drawn_in_bf16(job, tmp_path)


def test_lycoris_over_flux_in_bf16_is_nearly_the_same(flux: SampleJob, tmp_path: Path) -> None:
    lokr = tmp_path / "lokr.safetensors"
    write_lokr(flux.base, lokr, tmp_path / "merged.safetensors")
    assert_drawn_in_bf16(replace(flux, lora=str(lokr), network_module=LYCORIS), tmp_path)


def test_a_tall_picture_is_the_same(job: SampleJob, tmp_path: Path) -> None:
    """HunyuanImage's autoencoder decodes it in parts."""
    cells = (replace(job.cells[-1], width=32, height=1024),)
    pictures, _ = drawn(replace(job, cells=cells, out_dir=str(tmp_path / "samples")))
    right = tmp_path / "right.safetensors"
    run(SCRIPT, "draw", os.environ["SD_SCRIPTS_DIR"], tmp_path / "samples.json", right)
    assert pictures[0].shape == (1024, 32, 3)
    assert np.abs(pictures[0] - load_file(right)["0"].numpy()).max() < 2


def test_a_lora_that_fits_in_part_is_reported(job: SampleJob, tmp_path: Path) -> None:
    with safe_open(str(job.lora), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    modules = {name.partition(".")[0] for name in tensors}
    one = next(each for each in sorted(modules) if each.startswith("lora_unet_"))
    for name in [each for each in tensors if each.startswith(f"{one}.")]:
        tensors[name.replace("_0_", "_77_", 1)] = tensors.pop(name)
    lora = tmp_path / "lora.safetensors"
    save_file(tensors, lora)
    out = str(tmp_path / "samples")
    _, events = drawn(replace(job, lora=str(lora), cells=job.cells[-1:], out_dir=out))
    (warning,) = [each for each in events if each["event"] == "warning"]
    number = len(modules)
    assert f"sd-scripts loaded {number - 1} of the {number} LoRA modules" in str(warning["text"])
