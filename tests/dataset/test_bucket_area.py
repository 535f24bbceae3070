"""What the buckets make of photographs by the family's defaults, and what is reported of a loss."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tenner.kohya.buckets import widest_bucket
from tests.hardware.fake_smi import card, install_smi
from tests.hardware.program import sparse_base, tenner


def photographs(folder: Path, size: tuple[int, int], count: int = 4) -> Path:
    concept = folder / "10_sks dog"
    concept.mkdir(parents=True)
    for number in range(count):
        Image.effect_noise(size, 60 + number).save(concept / f"{number}.jpg", quality=60)
        (concept / f"{number}.txt").write_text(f"sks dog number {number}")
    return folder


def checked(cwd: Path, *words: str, env: dict[str, str] | None = None) -> dict[str, object]:
    done = tenner("check", "photos", "--json", *words, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kinds(found: dict[str, object]) -> dict[str, dict[str, object]]:
    return {each["kind"]: each for each in found["findings"]}  # type: ignore[index,attr-defined]


@pytest.mark.parametrize(
    ("words", "bucket", "is_reported"),
    [
        (("--base_model", "sdxl"), (1344, 768), False),
        (("--base_model", "sd15"), (640, 384), False),
        (("--base_model", "sdxl", "--max_bucket_reso", "1024"), (1024, 576), True),
        (("--base_model", "hf://some/painter-XL"), (1344, 768), False),
        (("--base_model", "hf://some/painter"), (640, 384), False),
        (("--base_model", "hf://some/painter", "--resolution", "1024"), (1344, 768), False),
    ],
)
def test_a_photograph_keeps_the_area_of_its_familys_resolution(
    tmp_path: Path, words: tuple[str, ...], bucket: tuple[int, int], is_reported: bool
) -> None:
    photographs(tmp_path / "photos", (1920, 1080))
    found = checked(tmp_path, *words)
    (seen,) = found["buckets"]  # type: ignore[misc]
    assert (seen["width"], seen["height"]) == bucket
    reported = kinds(found)
    assert ("unused_area" in reported) == is_reported
    is_assumed = words[1].startswith("hf://")
    assert ("assumed_base" in reported) == is_assumed
    if is_reported:
        lost = 1 - 1024 * 576 / 1024**2
        assert f"{round(100 * lost)} %" in str(reported["unused_area"]["text"])
        assert "1920×1080 is trained at 1024×576" in str(reported["unused_area"]["text"])
        assert reported["unused_area"]["fix"] == "set max_bucket_reso = 2048, which keeps them"


@pytest.mark.parametrize(
    ("words", "size", "kind", "share", "fix"),
    [
        (
            ("--enable_bucket", "false"),
            (1920, 1080),
            "cropped",
            1 - 1080 / 1920,
            "set enable_bucket = true, or crop them yourself",
        ),
        (  # 3:1 goes to 832×256, as 512² / 832 is 315
            (),
            (1664, 512),
            "unused_area",
            1 - 832 * 256 / 512**2,
            "crop them to a shape nearer to a square",
        ),
        (
            ("--min_bucket_reso", "512"),
            (512, 1024),
            "cropped",
            0.5,
            "set min_bucket_reso = 256, or crop them yourself",
        ),
    ],
)
def test_what_is_lost_is_reported_with_the_setting_that_mends_it(
    tmp_path: Path, words: tuple[str, ...], size: tuple[int, int], kind: str, share: float, fix: str
) -> None:
    photographs(tmp_path / "photos", size)
    reported = kinds(checked(tmp_path, *words))[kind]
    assert f"up to {round(100 * share)} %" in str(reported["text"])
    assert reported["fix"] == fix
    assert reported["level"] == "warning"


def test_a_plan_says_the_sides_and_the_loss_too(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", (1920, 1080))
    env = install_smi(tmp_path, [card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9")])
    env |= {"TENNER_MODELS_DIR": str(sparse_base(tmp_path / "models", "sdxl"))}
    words = ("photos", "--base_model", "sdxl", "--engine", "native", "--json")
    plan = json.loads(tenner("plan", *words, cwd=tmp_path, env=env).stdout)
    options, choices = plan["options"], {each["name"]: each for each in plan["choices"]}
    assert (options["max_bucket_reso"], options["bucket_reso_steps"]) == (2048, 32)
    assert options["network_train_unet_only"] is True
    assert options["noise_offset"] == 0.0357
    assert choices["prediction"]["reason"] == "assumed, as nothing states it"
    assert choices["bucket sides"]["value"] == "256 to 2048"
    assert choices["text encoder"]["value"] == "not trained"
    assert "overflows" in choices["VAE"]["reason"]
    done = tenner("plan", *words, "--max_bucket_reso", "1024", cwd=tmp_path, env=env)
    reported = [each["text"] for each in json.loads(done.stdout)["notices"]]
    assert any("44 % of the pixels" in text for text in reported)


def test_sd15_keeps_its_defaults(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", (512, 512), count=2)
    env = install_smi(tmp_path, [card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9")])
    env |= {"TENNER_MODELS_DIR": str(sparse_base(tmp_path / "models"))}
    words = ("photos", "--engine", "diffusers", "--json")  # the built-in trainer's earlier name
    plan = json.loads(tenner("plan", *words, cwd=tmp_path, env=env).stdout)
    options, (engine, *_) = plan["options"], plan["choices"]
    assert (plan["engine"], engine["value"]) == ("native", "native")
    reported = {key: options.get(key) for key in ("max_bucket_reso", "bucket_reso_steps")}
    assert reported == {"max_bucket_reso": 1024, "bucket_reso_steps": 64}
    assert options["network_train_unet_only"] is False
    assert options["text_encoder_lr"] == [5e-5]
    assert "noise_offset" not in options


@pytest.mark.parametrize(
    ("words", "rate", "unet_only"),
    [
        (("--text_encoder_lr", "2e-5"), [2e-5], False),
        (("--network_train_unet_only", "false"), [1e-5], False),
        (("--network_train_unet_only", "true"), [1e-5], True),
    ],
)
def test_sdxls_text_encoders_are_trained_where_that_is_reported(
    tmp_path: Path, words: tuple[str, ...], rate: list[float], unet_only: bool
) -> None:
    photographs(tmp_path / "photos", (512, 512), count=2)
    env = install_smi(tmp_path, [card("NVIDIA A100", 81920, "550.54.14", "8.0")])
    env |= {"TENNER_MODELS_DIR": str(sparse_base(tmp_path / "models", "sdxl"))}
    job = ("photos", "--base_model", "sdxl", "--engine", "native", *words)
    job = (*job, "--scale_lr", "none")
    done = tenner("plan", *job, "--json", cwd=tmp_path, env=env)
    options = json.loads(done.stdout)["options"]
    assert options["text_encoder_lr"] == pytest.approx(rate)
    assert options["network_train_unet_only"] is unet_only


@pytest.mark.parametrize(
    ("resolution", "side"),
    [((512, 512), 1024), ((768, 768), 1536), ((1024, 1024), 2048), ((1344, 768), 2048)],
)
def test_the_widest_bucket_is_4_to_1(resolution: tuple[int, int], side: int) -> None:
    assert widest_bucket(resolution) == side
