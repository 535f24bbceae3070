"""What stands in a run's way is reported at once, by whichever check it was found."""

from pathlib import Path

import pytest

from tests.hardware.fake_smi import card, install_smi
from tests.hardware.program import photos, sparse_base, tenner

SETTINGS, DATASET, MACHINE = 2, 3, 4


@pytest.fixture
def unwritable(tmp_path: Path) -> str:
    """A destination that is a file."""
    (tmp_path / "taken").write_text("a file")
    return f"file://{tmp_path}/taken"


def test_a_missing_card_hides_neither_images_nor_destination(
    tmp_path: Path, unwritable: str
) -> None:
    (tmp_path / "photos").mkdir()
    done = tenner("train", "photos", "--destinations", unwritable, cwd=tmp_path)
    assert done.returncode == SETTINGS
    for text in ("no GPU here", "no images in photos", "taken"):
        assert done.stderr.count(text) == 1, text
    assert done.stderr.index("taken") < done.stderr.index("no images") < done.stderr.index("no GPU")


def test_bad_images_come_before_a_missing_card(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    env = {"TENNER_MODELS_DIR": str(sparse_base(tmp_path / "models"))}
    done = tenner("train", "photos", cwd=tmp_path, env=env)
    assert done.returncode == DATASET
    assert "no images in photos" in done.stderr
    assert "no GPU here" in done.stderr


def test_a_missing_card_alone_is_the_machines_turn(tmp_path: Path) -> None:
    photos(tmp_path / "photos", num_images=3, side=64)
    env = {"TENNER_MODELS_DIR": str(sparse_base(tmp_path / "models"))}
    done = tenner("train", "photos", cwd=tmp_path, env=env)
    assert done.returncode == MACHINE
    assert done.stderr.count("error:") == 1


def test_a_base_that_is_not_there_hides_no_bad_images(tmp_path: Path) -> None:
    install_smi(tmp_path, [card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9")])
    (tmp_path / "photos").mkdir()
    for command in ("train", "plan"):
        done = tenner(command, "photos", "--base_model", "/nowhere", cwd=tmp_path)
        assert done.returncode == SETTINGS
        assert "there is no base model at /nowhere" in done.stderr
        assert "no images in photos" in done.stderr
        assert done.stderr.count("error:") == 2


def test_the_tiny_base_needs_no_card_also_where_it_is_refused(tmp_path: Path) -> None:
    photos(tmp_path / "photos", num_images=3, side=64)
    for command in ("plan", "train"):
        args = ("photos", "--base_model", "tiny", "--v2", "true")
        done = tenner(command, *args, cwd=tmp_path)
        assert done.returncode == SETTINGS
        assert "v2 = true" in done.stderr
        assert "GPU" not in done.stderr
