"""Learning rates for the batch: the rule, whose rate is scaled, and a fair comparison of cards."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenner.kohya.options import options as sd_options
from tenner.planning.family_defaults import with_family_defaults
from tenner.planning.learning_rate import rate_factor, rates_for
from tenner.settings import load_request
from tests.hardware.fake_smi import card, install_smi
from tests.hardware.program import photos as make_photos
from tests.hardware.program import sparse_base, tenner


def rates(images: int, family: Any = "sd1", **flags: str) -> tuple[float, float, float]:
    """The U-Net's, the text encoder's, and what they are multiplied by."""
    request = load_request(flags, {}, read_default_config=False)
    settings = with_family_defaults(request, family, (512, 512)).settings
    found = rates_for(settings, images)
    return found.unet_lr, found.text_encoder_lr[0], rate_factor(settings, images)


@pytest.mark.parametrize(
    ("images", "family", "expected"),
    [
        (4, "sd1", 1e-4),  # the guide's batch on its first card: its own rate, to the bit
        (2, "sdxl", 1e-4),
        (1, "sd1", 1e-4 * math.sqrt(1 / 4)),
        (8, "sd1", 1e-4 * math.sqrt(8 / 4)),
        (16, "sdxl", 1e-4 * math.sqrt(16 / 2)),
    ],
)
def test_a_rate_that_nobody_set_follows_the_square_root(
    images: int, family: str, expected: float
) -> None:
    unet, text, _ = rates(images, family)
    assert unet == pytest.approx(expected, rel=5e-4)
    share = {"sd1": 0.5, "sdxl": 0.1}[family]
    assert text == pytest.approx(expected * share, rel=1e-3)
    if images == {"sd1": 4, "sdxl": 2}[family]:
        assert unet == 1e-4


@pytest.mark.parametrize(
    "flags",
    [
        {"learning_rate": "3e-4"},
        {"unet_lr": "3e-4"},
        {"text_encoder_lr": "1.5e-4", "learning_rate": "3e-4"},
        {"scale_lr": "none", "learning_rate": "3e-4"},
        {"optimizer_type": "Prodigy"},
        {"optimizer_type": "Prodigy", "scale_lr": "sqrt"},
    ],
)
def test_a_rate_that_was_set_or_is_found_stays_at_any_batch(flags: dict[str, str]) -> None:
    assert {rates(images, **flags) for images in (1, 2, 4, 8, 64)} == {rates(4, **flags)}
    if "optimizer_type" not in flags:
        assert rates(8, **flags)[0] == 3e-4


IA3 = {"network_module": "lycoris.kohya", "network_args": "algo=ia3"}


def test_ia3_gets_the_rate_that_it_needs_where_all_are_open() -> None:
    assert rates(4, **IA3) == (5e-3, 2.5e-3, 1.0)
    assert rates(2, "sdxl", **IA3)[:2] == (5e-3, 5e-4)
    assert rates(16, **IA3)[0] == 1e-2
    assert rates(4, **IA3, learning_rate="1e-3")[0] == 1e-3
    assert rates(4, **IA3, text_encoder_lr="1e-3")[:2] == (1e-4, 1e-3)
    assert rates(4, **IA3, optimizer_type="Prodigy")[0] == 1.0


@pytest.mark.parametrize(
    ("words", "decided"),
    [
        ("algo=ia3", ("algo=ia3", "preset=ia3")),
        ("algo=ia3 preset=full", ("algo=ia3", "preset=full")),
    ],
)
def test_ia3_gets_its_preset_where_that_is_open(words: str, decided: tuple[str, ...]) -> None:
    given = {**IA3, "network_args": words.split()}
    request = load_request(given, {}, read_default_config=False)
    once = with_family_defaults(request, "sdxl", (1024, 1024))
    assert once.settings.network_args == decided
    assert once.settings.network_train_unet_only is True  # as without (IA)³
    assert with_family_defaults(once, "sdxl", (1024, 1024)) == once


def test_ia3_that_only_a_file_names_gets_its_rate_too() -> None:
    """What was decided before its network was known is decided again."""
    request = load_request({}, {}, read_default_config=False)
    request = with_family_defaults(request, "sd1", (512, 512))
    known = {"network_module": "lycoris.kohya", "network_args": ("algo=ia3",)}
    known_now = replace(request, settings=request.settings.model_copy(update=known))
    found = with_family_defaults(known_now, "sd1", (512, 512)).settings
    assert (found.learning_rate, found.text_encoder_lr) == (5e-3, (2.5e-3,))


@pytest.mark.parametrize(
    ("flags", "factor"),
    [
        ({"scale_lr": "sqrt", "learning_rate": "2e-4"}, math.sqrt(2)),
        ({"scale_lr": "linear", "learning_rate": "2e-4"}, 2.0),
        ({"scale_lr": "sqrt", "learning_rate": "2e-4", "lr_batch_size": "1"}, math.sqrt(8)),
        ({"lr_batch_size": "2", "learning_rate": "2e-4"}, 2.0),
        ({"lr_batch_size": "16", "unet_lr": "2e-4"}, math.sqrt(0.5)),
        ({"optimizer_type": "SGD"}, 2.0),
    ],
)
def test_who_asks_for_a_rule_gets_it_for_all_rates(flags: dict[str, str], factor: float) -> None:
    unet, text, found = rates(8, **flags)
    before, text_before, _ = rates(8, **(flags | {"scale_lr": "none"}))
    assert found == pytest.approx(factor)
    assert (unet / before, text / text_before) == pytest.approx((factor, factor), rel=1e-3)


def test_it_is_none_of_the_options_that_sd_scripts_gets() -> None:
    assert not {"scale_lr", "lr_batch_size"} & set(sd_options())


def planned(tmp_path: Path, *words: str) -> dict[str, Any]:
    """The plan on an RTX 4090, whose batch for SD 1.x is 4."""
    env = install_smi(tmp_path, [card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9")])
    env |= {"TENNER_MODELS_DIR": str(sparse_base(tmp_path / "models"))}
    folder = tmp_path / "photos"
    if not folder.is_dir():
        make_photos(folder, num_images=20)
    job = ("plan", str(folder), "--base_model", "sd15", "--engine", "native", "--json")
    done = tenner(*job, *words, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_plan_says_the_rate_and_warns_of_few_updates_with_what_more_would_cost(
    tmp_path: Path,
) -> None:
    usual = planned(tmp_path, "--effective_batch_size", "16", "--price_per_hour", "1")
    options = usual["options"]
    assert options["unet_lr"] == options["learning_rate"] == 2e-4
    assert options["text_encoder_lr"] == [1e-4]
    (said,) = [each for each in usual["choices"] if each["name"] == "learning rate"]
    assert said["value"] == "0.0002"
    assert "0.0001 for 4 images to an update, by the square root" in said["reason"]
    (text,) = [each for each in usual["choices"] if each["name"] == "text encoder"]
    assert text["value"] == "0.0001"

    steps, per_epoch = usual["num_steps"], usual["steps_per_epoch"]
    assert (steps, per_epoch) == (130, 13)  # 20 images, 10 repeats, 16 to an update, 10 epochs
    (few,) = [each for each in usual["notices"] if "updates of the weights" in each["text"]]
    assert few["level"] == "warning"
    epochs = math.ceil(300 / per_epoch)
    expected = usual["expected"]
    seconds = expected["seconds_per_step"] * epochs * per_epoch + expected["samples_seconds"]
    assert f"max_train_epochs = {epochs} makes {epochs * per_epoch}" in few["fix"]
    assert f"costs ${seconds / 3600:.2f}" in few["fix"]
    assert "effective_batch_size = 6 makes more" in few["fix"]

    longer = planned(tmp_path, "--learning_rate", "3e-4", "--max_train_epochs", "20")
    assert longer["options"]["unet_lr"] == 3e-4
    assert not [each for each in longer["notices"] if "updates of the weights" in each["text"]]


def offers(tmp_path: Path, *words: str) -> dict[str, Any]:
    folder = tmp_path / "photos"
    if not folder.is_dir():
        make_photos(folder, num_images=20)
    cards = [word for gpu in ("RTX 3090", "4090", "A100-40") for word in ("--gpu", gpu)]
    job = ("plan", str(folder), "--base_model", "sd15", "--json", *cards)
    done = tenner(*job, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows(found: dict[str, Any]) -> dict[str, tuple[int, float, int, tuple[str, ...]]]:
    """Batch, rate, images seen and marks of each card."""
    return {
        each["card"]: (
            each["images_per_update"],
            each["learning_rate"],
            each["image_passes"],
            tuple(each["unlike"]),
        )
        for each in found["offers"]
    }


def test_a_comparison_sees_the_same_images_at_rates_for_the_batch_or_marks_what_differs(
    tmp_path: Path,
) -> None:
    usual = offers(tmp_path)
    assert rows(usual) == {
        "RTX 3090": (2, 7.071e-05, 2000, ()),
        "RTX 4090": (4, 1e-4, 2000, ()),
        "A100 40GB": (8, 1.414e-4, 2000, ()),
    }
    fixed = offers(tmp_path, "--learning_rate", "1e-4")
    assert rows(fixed) == {
        "RTX 3090": (2, 1e-4, 2000, ("batch",)),
        "RTX 4090": (4, 1e-4, 2000, ()),
        "A100 40GB": (8, 1e-4, 2000, ("batch",)),
    }
    (said,) = [each for each in fixed["notices"] if "not the same training" in each["text"]]
    assert "effective_batch_size = 4" in said["fix"]

    alike = offers(tmp_path, "--learning_rate", "1e-4", "--effective_batch_size", "4")
    assert set(rows(alike).values()) == {(4, 1e-4, 2000, ())}
    assert not [each for each in alike["notices"] if "not the same training" in each["text"]]

    steps = offers(tmp_path, "--max_train_steps", "200")
    assert {card: row[3] for card, row in rows(steps).items()} == {
        "RTX 3090": ("images",),
        "RTX 4090": (),
        "A100 40GB": ("images",),
    }
    texts = [each["text"] for each in steps["notices"]]
    assert "few updates of the weights, under 300, on RTX 3090, RTX 4090, A100 40GB" in texts


def test_the_table_marks_what_differs_in_ascii_too(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", num_images=20)
    words = ("plan", "photos", "--base_model", "sd15", "--gpu", "3090", "--gpu", "4090")
    more = ("--learning_rate", "1e-4", "--max_train_epochs", "2", "--price_per_hour", "1")
    done = tenner(*words, *more, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "20 images, 400 seen in the run" in done.stdout
    cells = {line.split(" (")[0]: line.split() for line in done.stdout.splitlines() if "$" in line}
    assert "2!=" in cells["RTX 3090"]
    assert "4" in cells["RTX 4090"]
    assert "100!" in cells["RTX 4090"]
    assert "not the same training as the other rows" in done.stdout
