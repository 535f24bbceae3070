"""Regularisation images are balanced with the training images, and what is left out is reported."""

import json
from collections import Counter
from pathlib import Path

import pytest
from pictures import write_set

from tenner.dataset import DatasetRequest, inspect_dataset
from tests.hardware.program import tenner


def inspected(tmp_path: Path, reg: str, **more: object):
    needed = DatasetRequest(
        source=str(tmp_path / "train"), reg_data_dir=str(tmp_path / reg), resolution=(64, 64),
        min_bucket_reso=32, max_bucket_reso=128, bucket_reso_steps=8, num_workers=1, **more,
    )  # fmt: skip
    return inspect_dataset(needed, tmp_path / "work")


def sd_scripts_balance(num_train: int, reg: list[int]) -> list[int]:
    """The repeats of each regularisation image: DreamBoothDataset's loop, written down anew."""
    repeats, seen, first = [0] * len(reg), 0, True
    while seen < num_train:
        for index, own in enumerate(reg):
            more = own if first else 1
            repeats[index] += more
            seen += more
            if seen >= num_train:
                break
        first = False
    return repeats


@pytest.mark.parametrize("num_repeats", [None, 10])
def test_all_forty_are_used_beside_four_times_ten(tmp_path: Path, num_repeats: int | None) -> None:
    write_set(tmp_path / "train", 4)
    write_set(tmp_path / "reg", 40, first=10)
    dataset = inspected(tmp_path, "reg", num_repeats=num_repeats)
    reg = [image.num_repeats for image in dataset.images if image.is_reg]
    assert reg == sd_scripts_balance(40, [1] * 40) == [1] * 40
    assert dataset.reg_dir is not None
    # sd-scripts reads the repeats from the folder's name, and balances by itself
    folders = Counter(path.parent.name.partition("_")[0] for path in dataset.reg_dir.rglob("*.png"))
    assert folders == {"1": 40}
    reported = {finding.kind: finding for finding in dataset.findings}["regularisation"]
    assert reported.level == "note"
    assert reported.text.startswith("40 of 40 regularisation images are used, 40 seen in an epoch")


def test_what_a_folder_says_holds_and_the_unused_are_named(tmp_path: Path) -> None:
    write_set(tmp_path / "train" / "10_sks toy", 4)
    write_set(tmp_path / "reg" / "10_toy", 40, first=10)
    dataset = inspected(tmp_path, "reg")
    reg = [image.num_repeats for image in dataset.images if image.is_reg]
    assert reg == [each for each in sd_scripts_balance(40, [10] * 40) if each] == [10] * 4
    reported = {finding.kind: finding for finding in dataset.findings}["regularisation"]
    assert reported.level == "warning"
    assert reported.text.startswith("4 of 40 regularisation images are used, 40 seen")
    assert "1_name" in reported.fix
    assert len(reported.files) == 36


def test_check_says_how_many_of_how_many(tmp_path: Path) -> None:
    write_set(tmp_path / "train", 4)
    write_set(tmp_path / "reg", 50, first=10)
    words = (
        "check",
        "train",
        "--reg_data_dir",
        "reg",
        "--num_repeats",
        "10",
        "--base_model",
        "tiny",
    )
    done = tenner(*words, "--json", cwd=tmp_path)
    found = {each["kind"]: each for each in json.loads(done.stdout)["findings"]}
    text = "40 of 50 regularisation images are used, 40 seen in an epoch beside 40 training images"
    assert found["regularisation"]["text"] == text
    assert found["regularisation"]["fix"].startswith("repeat the training images 2 times as often")
