"""A base model is recognised by what is in its files, in milliseconds, and a wrong one by what it
is."""

import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest

from tenner.base.inspection import inspect_base
from tenner.base.local import find_local_base, not_found
from tenner.base.tiny import base_dir
from tenner.core.errors import SettingsError
from tenner.engines.choice import choose_engine
from tenner.settings.known_bases import known_base
from tenner.settings.model import Settings

UNET = {"model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3]}
SD1 = UNET | {"cond_stage_model.transformer.text_model.embeddings.position_ids": [1, 77]}
SD2 = UNET | {"cond_stage_model.model.ln_final.weight": [1024]}
SDXL = UNET | {
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": [768],
    "conditioner.embedders.1.model.ln_final.weight": [1280],
}


def safetensors(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A file with a right header and zeros: all that is looked at."""
    header: dict[str, object] = {}
    at = 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(at))
    return path


def diffusers_folder(
    path: Path, *, cross: int = 768, scheduler: dict[str, object] | None = None
) -> Path:
    for part, config in {
        "unet": {"in_channels": 4, "cross_attention_dim": cross, "sample_size": 64},
        "vae": {"block_out_channels": [128, 256, 512, 512]},
        "text_encoder": {},
    }.items():
        safetensors(path / part / "model.safetensors", {"a": [2]})
        (path / part / "config.json").write_text(json.dumps(config))
    (path / "scheduler").mkdir()
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler or {}))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        inspect_base(path, name="x")
    assert all(problem.fix for problem in caught.value.problems if problem.text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "family", "prediction"),
    [
        (SD1, "sd1", "epsilon"),
        (SD2, "sd2", None),
        (SDXL, "sdxl", "epsilon"),
        (SDXL | {"v_pred": [0], "ztsnr": [0]}, "sdxl", "v_prediction"),
    ],
)
def test_the_family_is_read_from_the_tensors(
    tmp_path: Path, shapes: dict[str, list[int]], family: str, prediction: str | None
) -> None:
    base = inspect_base(safetensors(tmp_path / "sdxl_named_wrongly.safetensors", shapes), name="x")
    assert (base.family, base.prediction, base.layout) == (family, prediction, "checkpoint")
    assert base.zero_terminal_snr == ("ztsnr" in shapes)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"lora_unet_x.lora_up.weight": [4, 4]}, "a LoRA, not a base"),
        ({"transformer_blocks.0.attn.to_q.weight": [4, 4]}, "family that tenner does not train"),
        ({"encoder.block.0.layer.0.SelfAttention.k.weight": [4, 4]}, "a text encoder alone"),
        (SD1 | {"model.diffusion_model.input_blocks.0.0.weight": [320, 9, 3, 3]}, "inpainting"),
        (UNET | {"conditioner.embedders.0.model.ln_final.weight": [4]}, "refiner"),
        ({"encoder.conv_in.weight": [4, 4]}, "a VAE alone"),
        ({"something.else": [4]}, "not a checkpoint of a family"),
        ({"diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight": [4, 4]}, "a LoRA"),
        ({"transformer.transformer_blocks.0.attn.to_q.lora_B.weight": [4, 4]}, "a LoRA"),
        ({"lycoris_double_blocks_0_img_attn_qkv.lokr_w1": [4, 4]}, "a LoRA"),
        ({"oft_unet_double_blocks_0_img_attn_qkv.oft_blocks": [4, 4, 4]}, "a LoRA"),
        ({"control_model.input_blocks.0.0.weight": [4, 4]}, "a ControlNet"),
        ({"clip_l": [8, 768], "clip_g": [8, 1280]}, "a textual inversion"),
        ({"single_transformer_blocks.0.attn.to_q.weight": [4, 4]}, "under diffusers' names"),
    ],
)
def test_other_kinds_of_files_are_reported_by_what_they_are(
    tmp_path: Path, shapes: dict[str, list[int]], says: str
) -> None:
    assert says in refusal(safetensors(tmp_path / "m.safetensors", shapes))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html>Log in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git-lfs pointer"),
        (pickle.dumps({"state_dict": 1}), "a pickle"),
        (b"PK\x03\x04" + bytes(40), "a pickle"),
        (b"GGUF\x03\0\0\0" + bytes(40), "a GGUF file"),
        (b"", "empty"),
        (b"\x05", "no safetensors file"),
        (bytes(100), "no safetensors file"),
        (b"\xff" * 100, "no safetensors file"),
    ],
)
def test_a_file_that_is_something_else_is_distinguished(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    assert says in refusal(path)


@pytest.mark.parametrize("saved", [0.99, 0.5, 0.2])
def test_a_cut_download_is_reported(tmp_path: Path, saved: float) -> None:
    path = safetensors(tmp_path / "m.safetensors", SD1)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * saved)])
    assert "is cut" in refusal(path)


def test_a_diffusers_folder_shows_its_family_and_schedule(tmp_path: Path) -> None:
    schedule = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    base = inspect_base(diffusers_folder(tmp_path / "m", cross=1024, scheduler=schedule), name="m")
    assert (base.family, base.prediction, base.zero_terminal_snr) == ("sd2", "v_prediction", True)
    assert (base.layout, base.resolution) == ("diffusers", 512)


def test_a_broken_folder_is_reported_with_all_its_missing_parts(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "m")
    (folder / "vae" / "model.safetensors").rename(folder / "vae" / "model.bin")
    (folder / "unet" / "model.safetensors").unlink()
    text = refusal(folder)
    assert "unet has no weights" in text
    assert "vae has only weights as a pickle" in text


@pytest.mark.parametrize(
    "name",
    [
        "sd15",
        "runwayml/stable-diffusion-v1-5",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "hf://stable-diffusion-v1-5/stable-diffusion-v1-5",
        "./models/sd/v1-5-pruned.safetensors",
        "SD1.5",
    ],
)
def test_the_guides_names_mean_the_baked_model_where_nothing_else_is(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    safetensors(tmp_path / "models" / "sd15.safetensors", SD1)
    base = find_local_base(name, models_dir=tmp_path / "models", tiny_dir=tmp_path)
    assert base is not None
    assert base.hub_id == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert base.licence == "creativeml-openrail-m"
    if name.startswith("."):
        assert "is not here; the baked sd15" in base.notices[0].text


def test_a_path_that_is_there_wins_over_the_baked_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    safetensors(tmp_path / "v1-5-pruned.safetensors", SDXL)
    base = find_local_base("v1-5-pruned.safetensors", models_dir=tmp_path, tiny_dir=tmp_path)
    assert base is not None
    assert base.family == "sdxl"


def test_a_base_that_is_nowhere_is_reported_with_what_is_here(tmp_path: Path) -> None:
    assert find_local_base("sd15", models_dir=tmp_path, tiny_dir=tmp_path) is None
    (problem,) = not_found("me/model", tmp_path).problems
    assert "hf://me/model" in problem.fix
    (problem,) = not_found("/nowhere/a.safetensors", tmp_path).problems
    assert "no base model at /nowhere/a.safetensors" in problem.text
    assert known_base("someone/else") is None


def test_a_base_of_linked_folders_has_the_size_of_its_weights(tmp_path: Path) -> None:
    """A sparse file of 2 GB in a folder that is a link, as caches keep them."""
    cache, base = tmp_path / "cache", tmp_path / "base"
    shutil.copytree(base_dir(), cache)
    weights = cache / "unet" / "diffusion_pytorch_model.safetensors"
    with weights.open("ab") as file:
        file.truncate(2_000_000_000)
    base.mkdir()
    for part in cache.iterdir():
        (base / part.name).symlink_to(part)
    found = inspect_base(base, name="linked")
    assert found.num_bytes >= 2_000_000_000
    assert not found.is_tiny


def test_the_tiny_base_does_not_overrule_an_engine_that_was_requested() -> None:
    with pytest.raises(SettingsError, match="sd-scripts cannot train the tiny base"):
        choose_engine(Settings(engine="sd-scripts"), {}, tiny=True)
