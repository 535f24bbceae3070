"""Images that are kept from the training: some, never all, the same ones each time."""

import json
import subprocess
import sys
from pathlib import Path

from tenner.base.tiny import concept_dir, regularisation_dir
from tenner.pipeline.preflight import prepare
from tenner.planning.prepared import Prepared
from tenner.settings import load_request

JOB = {
    "base_model": "tiny",
    "dataset": str(concept_dir()),
    "reg_data_dir": str(regularisation_dir()),
    "resolution": "64",
    "min_bucket_reso": "64",
    "device": "cpu",
    "batch_size": "4",
}


def prepared(tmp_path: Path, **settings: str) -> Prepared:
    request = load_request({**JOB, **settings}, {}, read_default_config=False)
    return prepare(request, {}, tmp_path)


def test_a_share_is_held_out_and_epochs_are_shorter(tmp_path: Path) -> None:
    whole = prepared(tmp_path / "a")
    split = prepared(tmp_path / "b", validation_split="0.25")
    assert whole.dataset.held_out == ()
    assert len(split.dataset.held_out) == 5
    assert not any(image.is_reg for image in split.dataset.held_out)
    saved = {image.source for image in split.dataset.images}
    assert not saved & {image.source for image in split.dataset.held_out}
    passes = [
        sum(image.num_repeats for image in split.dataset.images if image.is_reg is reg)
        for reg in (False, True)
    ]
    assert passes == [15, 15], "as many of the regularisation images as of the others"
    assert split.plan.length.steps_per_epoch < whole.plan.length.steps_per_epoch
    assert any("15 left to learn from" in notice.text for notice in split.plan.notices)


def test_which_are_held_out_does_not_hang_on_chance_but_on_the_seed(tmp_path: Path) -> None:
    def held(folder: str, **settings: str) -> set[str]:
        made = prepared(tmp_path / folder, validation_split="0.25", **settings)
        return {image.source for image in made.dataset.held_out}

    assert held("a") == held("b")
    assert held("a") != held("c", seed="7")


def test_never_all_and_at_least_one(tmp_path: Path) -> None:
    assert len(prepared(tmp_path / "a", validation_split="0.01").dataset.held_out) == 1
    assert len(prepared(tmp_path / "b", validation_split="0.99").dataset.held_out) == 19


def test_a_run_tells_the_loss_on_them_on_its_page(tmp_path: Path) -> None:
    words = {**JOB, "validation_split": "0.25", "max_train_epochs": "2", "network_dim": "4"}
    words |= {"optimizer_type": "AdamW", "no_samples": "true", "output_name": "held"}
    done = subprocess.run(
        [sys.executable, "-m", "tenner", "train", *(f"--{k}={v}" for k, v in words.items())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "output" / "held"
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    reported = [each for each in map(json.loads, lines) if each["event"] == "validation"]
    assert [(each["epoch"], each["num_images"]) for each in reported] == [(1, 5), (2, 5)]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "On held-out images the loss is" in page
    assert 'class="validation"' in page
