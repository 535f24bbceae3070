"""Where a base is fetched from, and which of a repo's files it is."""

import tomllib
from pathlib import Path

import pytest

from tenner.base.source import parse_base_address
from tenner.base.source.choosing import choose_files
from tenner.core.errors import SettingsError
from tenner.settings.known_bases import KNOWN_BASES

FOLDER = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "safety_checker/model.safetensors",
    "v1-5-pruned.safetensors",
    "README.md",
)


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("hf://me/model", "hf://me/model"),
        ("hf://me/model@v2/a/b.safetensors", "hf://me/model@v2/a/b.safetensors"),
        ("https://huggingface.co/me/model/blob/main/x.safetensors", "hf://me/model/x.safetensors"),
        ("https://huggingface.co/me/model/tree/dev", "hf://me/model@dev"),
        ("https://host/x.safetensors?download=1", "https://host/x.safetensors"),
        ("s3://bucket/a/x.safetensors", "s3://bucket/a/x.safetensors"),
        ("/models/x.safetensors", None),
        ("me/model", None),
    ],
)
def test_addresses_as_people_paste_them(requested: str, expected: str | None) -> None:
    found = parse_base_address(requested)
    assert (str(found) if found else None) == expected


@pytest.mark.parametrize(
    "requested", ["sd15", "runwayml/stable-diffusion-v1-5", "hf://runwayml/stable-diffusion-v1-5"]
)
def test_a_known_name_is_its_one_file_at_a_fixed_commit(requested: str) -> None:
    found = parse_base_address(requested)
    assert found is not None
    assert found.location == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert found.sha256.startswith("6ce0161689")
    assert len(found.revision) == 40


def test_another_file_of_a_known_repo_is_not_held_to_the_known_hash() -> None:
    found = parse_base_address("hf://runwayml/stable-diffusion-v1-5/v1-5-pruned.safetensors")
    assert found is not None
    assert found.sha256 == ""


def test_what_is_known_is_what_the_image_bakes() -> None:
    models = Path(__file__).parents[2] / "docker" / "models.toml"
    baked = tomllib.loads(models.read_text(encoding="utf-8"))
    known_by_name = {each.name: each for each in KNOWN_BASES}
    for name, each in baked.items():
        known = known_by_name[name]
        assert (each["id"], each["revision"]) == (known.hub_id, known.revision)
        assert (each["file"], each["sha256"]) == (known.file, known.sha256)
        assert each["licence"] == known.licence


@pytest.mark.parametrize(
    "requested",
    [
        "hf://me",
        "hf://datasets/me/photos",
        "s3://bucket",
        "ftp://host/x",
        "https://civitai.com/api/download/models/1?token=0123456789abcdef",
        "https://me:word@host/x.safetensors",
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_fix(requested: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_base_address(requested)
    (problem,) = raised.value.problems
    assert problem.fix
    assert "0123456789abcdef" not in str(problem)
    assert "word@" not in str(problem)


def test_of_a_folder_the_full_weights_are_taken_and_nothing_else() -> None:
    assert set(choose_files(FOLDER, where="x")) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    }


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a.safetensors", "b.safetensors"), "2 checkpoints: a.safetensors, b.safetensors"),
        (("a.ckpt",), "only as pickles"),
        (("README.md",), "no base model"),
        (("model_index.json", "unet/config.json", "unet/x.bin"), "weights of its unet"),
    ],
)
def test_what_is_no_base_is_reported(names: tuple[str, ...], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        choose_files(names, where="hf://me/model")


def test_a_single_checkpoint_is_it() -> None:
    assert choose_files(("README.md", "x.safetensors"), where="x") == ("x.safetensors",)


@pytest.mark.parametrize(
    "address",
    [
        "s3://Bad_Name/x.safetensors",
        "s3://bucket/x.safetensors?regoin=eu-west-1",
        "s3://bucket",
        "gs://bucket/../x.safetensors",
        "azure://X y/x.safetensors",
        "rclone:remote",
    ],
)
def test_errors_of_an_address_in_a_bucket_name_the_setting(address: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_base_address(address)
    for problem in raised.value.problems:
        assert problem.text.startswith(f"base_model = {address.partition('?')[0]}")
        assert problem.fix
