"""What `train` refuses or warns of is reported on a laptop too: by `check`, and by `plan --gpu`."""

import json
from pathlib import Path

import pytest

from tests.hardware.program import photos, tenner

CASES: list[tuple[str, str, str, str]] = [
    ("sd15", "--zero_terminal_snr true", "error", "zero_terminal_snr needs v_parameterization"),
    ("sd15", "--keep_tokens 1", "warning", "keep_tokens has no effect"),
    ("sd15", "--lr_warmup_steps 500 --max_train_steps 20", "warning", "shortened to 2"),
    ("sd15", "--masked_loss true", "error", "masked_loss finds no masks"),
    ("sd15", "--full_bf16 true --mixed_precision fp16", "error", "full_bf16 needs mixed_precision"),
    (
        "sd15",
        "--optimizer_type Prodigy --text_encoder_lr 0.5",
        "error",
        "Prodigy takes one learning rate for all parts",
    ),
    ("sd15", "--scale_weight_norms 1 --engine native", "error", "has no scale_weight_norms"),
    ("sdxl", "--text_encoder_lr 1e-5 2e-5", "error", "2e-05 would be left out"),
    ("sdxl", "--clip_skip 2", "warning", "clip_skip has no effect on SDXL"),
    ("sdxl", "--cache_text_encoder_outputs true --shuffle_caption true", "error", "captions once"),
    ("tiny", "--secondary_separator ;;;", "error", "the built-in trainer has no secondary_sep"),
    ("tiny", "--v2 true", "error", "v2 = true states that tiny is Stable Diffusion 2.x"),
    ("sd15", "--network_weights nowhere.safetensors", "error", "there is no file"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("photos"), num_images=4, side=1024)


@pytest.mark.parametrize(("base", "flags", "level", "text"), CASES, ids=lambda each: each[:40])
@pytest.mark.parametrize("command", ["check", "plan"])
def test_it_is_reported_without_a_card_or_a_base(
    pictures: Path, tmp_path: Path, command: str, base: str, flags: str, level: str, text: str
) -> None:
    words = (str(pictures), "--base_model", base, *flags.split(), "--json")
    more = ("--gpu", "RTX 4090", "--gpu", "A100-40") if command == "plan" else ()
    done = tenner(command, *words, *more, cwd=tmp_path)
    assert done.returncode == (2 if level == "error" else 0), done.stderr
    if level == "error":
        assert text in done.stderr
        assert "fix:" in done.stderr
    if done.stdout:
        whole = json.loads(done.stdout)
        listed = "findings" if command == "check" else "notices"
        message = whole[listed] if listed in whole else whole["problems"]
        found = [each for each in message if text in each["text"]]
        assert [each["level"] for each in found] == [level]


def test_settings_and_pictures_are_reported_of_together(tmp_path: Path) -> None:
    (tmp_path / "photos" / "10_cat").mkdir(parents=True)
    (tmp_path / "photos" / "10_cat" / "a.png").write_bytes(b"no picture")
    words = ("photos", "--base_model", "sdxl", "--text_encoder_lr", "1e-5", "2e-5")
    done = tenner("check", *words, "--json", cwd=tmp_path)
    found = {each["kind"]: each["level"] for each in json.loads(done.stdout)["findings"]}
    assert (done.returncode, found["unreadable"]) == (2, "error")
    (tmp_path / "empty").mkdir()
    words = ("--base_model", "sdxl", "--text_encoder_lr", "1e-5", "2e-5")
    words = (*words, "--network_weights", "nowhere.safetensors")
    for command in (("check",), ("plan", "--gpu", "4090")):
        done = tenner(command[0], "empty", *command[1:], *words, cwd=tmp_path)
        assert done.returncode == 2
        for text in ("empty", "2e-05 would be left out", "nowhere.safetensors"):
            assert text in done.stdout + done.stderr


def test_of_a_base_that_is_not_here_nothing_is_guessed(pictures: Path, tmp_path: Path) -> None:
    words = (str(pictures), "--base_model", "hf://some/painter", "--zero_terminal_snr", "true")
    done = tenner("check", *words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kinds = {each["kind"]: each for each in json.loads(done.stdout)["findings"]}
    assert "assumed_base" in kinds
    assert "settings" not in kinds


def test_a_card_that_cannot_have_it_is_distinguished_from_those_that_can(
    pictures: Path, tmp_path: Path
) -> None:
    words = (str(pictures), "--base_model", "sd15", "--full_bf16", "true")
    done = tenner("plan", *words, "--gpu", "T4", "--gpu", "4090", "--json", cwd=tmp_path)
    offers = {each["card"]: each for each in json.loads(done.stdout)["offers"]}
    assert offers["RTX 4090"]["fits"]
    assert offers["Tesla T4"]["why_not"] == "full_bf16 needs mixed_precision = bf16"
    done = tenner("plan", *words, "--gpu", "T4", cwd=tmp_path)
    assert done.returncode == 2
    assert "full_bf16 needs mixed_precision = bf16" in done.stderr
