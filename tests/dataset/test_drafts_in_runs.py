"""Drafted captions in a run: made before the training, stored beside it, counted by the plan."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tenner.cli.main import main
from tenner.dataset.captioning.drafts import Drafts, pack_drafts, unpack_drafts
from tenner.pipeline.run_captions import kind_for
from tenner.settings import Settings
from tests.dataset.caption_models import BLUE, GREEN, RED, pictures


def job(tmp_path: Path, folder: Path, *more: str) -> tuple[str, ...]:
    run = ("--output_dir", str(tmp_path / "out"), "--output_name", "run", "--device", "cpu")
    return (str(folder), "--base_model", "tiny", *run, "--caption", "tags", *more)


def output_of(capsys, *words: str) -> str:
    """What a command prints, in one line; it has to end well."""
    assert main([*words]) == 0
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


@pytest.mark.long
def test_train_drafts_what_is_missing_beside_the_run_and_leaves_the_users_files(
    tmp_path, hub, capsys, monkeypatch
):
    folder = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN, blue=BLUE)
    (folder / "blue.txt").write_text("a sks toy, mine")
    before = sorted(path.name for path in folder.iterdir())
    to = ("--destinations", f"file://{tmp_path}/delivered")
    words = job(tmp_path, folder, "--max_train_steps", "1", "--no_samples", *to)
    output = output_of(capsys, "train", *words)
    assert "2 captions to draft by the WD14 tagger" in output
    assert "2 captions drafted on cpu: read them over" in output
    assert sorted(path.name for path in folder.iterdir()) == before
    run = tmp_path / "out" / "run"
    trained = json.loads((run / "dataset.json").read_text())
    expected = {"red.png": "sks toy, red sky, ^_^", "green.png": "sks toy, some one, green sky"}
    assert {each["source"]: each["caption"] for each in trained["images"]} == {
        **expected, "blue.png": "a sks toy, mine",
    }  # fmt: skip
    drafts = run / "captions" / "train"
    assert {path.name: path.read_text().strip() for path in drafts.glob("*.txt")} == {
        f"{name}.txt": text for name, text in expected.items()
    }

    # On another machine, without the model and without what this one has drafted: the same run.
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setenv("TENNER_CACHE_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    output = output_of(capsys, "train", *words)
    assert "2 captions drafted on an earlier machine" in output
    assert "to draft" not in output
    assert "delivered before" in output


def test_runs_over_the_same_pictures_train_on_the_same_drafts_made_once(
    tmp_path, hub, capsys, monkeypatch
):
    one = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN)
    assert prepared_captions(tmp_path, one)["red.png"] == "sks toy, red sky, ^_^"
    shutil.rmtree(tmp_path / "out")
    pictures(tmp_path / "10_my car", other=GREEN, red=RED)
    monkeypatch.setattr("tenner.pipeline.drafting.CaptionProcess", None)  # it is not started
    assert prepared_captions(tmp_path, tmp_path / "10_my car") == {
        "other.png": "my car, some one, green sky", "red.png": "my car, red sky, ^_^",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["../a.txt", "/a.txt", "train/a.png"])
def test_drafts_come_back_whole_and_nowhere_else(tmp_path, name):
    drafts = Drafts(tmp_path / "captions" / "train", {"kind": "wd14"})
    drafts.write("10_cat/قطة.png.txt", "a cat")
    packed = pack_drafts(tmp_path / "captions")
    wrong = json.dumps({"file": name, "text": "x"}) + "\n{cut"
    there = tmp_path / "there" / "captions"
    assert unpack_drafts(packed + wrong.encode(), there) == 1
    again = Drafts(there / "train", {"kind": "wd14"})
    assert again.state("10_cat/قطة.png.txt") == "drafted"
    assert pack_drafts(there) == packed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions", "there"]


def test_a_draft_that_the_user_edited_stays_and_a_file_beside_the_image_is_stronger(
    tmp_path, hub, capsys, monkeypatch
):
    folder = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN, blue=BLUE)
    assert prepared_captions(tmp_path, folder) == {
        "red.png": "sks toy, red sky, ^_^", "green.png": "sks toy, some one, green sky",
        "blue.png": "sks toy, blue sky",
    }  # fmt: skip
    drafts = tmp_path / "out" / "run" / "captions" / "train"
    (drafts / "red.png.txt").write_text("sks toy, edited")
    (folder / "green.txt").write_text("sks toy, mine")
    pictures(folder, more=RED)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert prepared_captions(tmp_path, folder) == {
        "red.png": "sks toy, edited", "green.png": "sks toy, mine",
        "blue.png": "sks toy, blue sky", "more.png": "sks toy, red sky, ^_^",
    }  # fmt: skip
    words = job(tmp_path, folder)
    assert "3 captions drafted by a model" in output_of(capsys, "check", *words)


def prepared_captions(tmp_path: Path, folder: Path) -> dict[str, str]:
    """The captions that a run would be trained with, once everything before it is done."""
    from tenner.library.requests import request_of
    from tenner.pipeline.preflight import prepare

    settings = {"dataset": str(folder), "base_model": "tiny", "device": "cpu", "caption": "tags",
                "output_dir": str(tmp_path / "out"), "output_name": "run"}  # fmt: skip
    request = request_of(settings, os.environ, preset=None)
    prepared = prepare(request, os.environ, tmp_path / "out" / "run" / "dataset")
    return {image.source: image.caption for image in prepared.dataset.images}


def test_plan_and_check_report_what_train_will_draft_and_write_nothing(tmp_path, capsys):
    folder = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN)
    (folder / "red.txt").write_text("a sks toy")
    for command in ("check", "plan"):
        output = output_of(capsys, command, *job(tmp_path, folder))
        assert "captions: 1 of 2 images; train drafts the others by the WD14 tagger" in output
    assert "draft them now by `tenner caption`" in output_of(
        capsys, "check", *job(tmp_path, folder)
    )
    assert not (tmp_path / "out").exists()
    never = output_of(capsys, "check", str(folder), "--base_model", "tiny")
    assert "draft them by `tenner caption`" in never


def test_plan_counts_the_time_of_drafts_that_are_missing(tmp_path, capsys):
    folder = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN, blue=BLUE)

    def hours(caption: str) -> float:
        words = ("--gpu", "RTX 4090", "--json", "--caption", caption)
        assert main(["plan", str(folder), "--base_model", "sd15", *words]) == 0
        offers = json.loads(capsys.readouterr().out)["offers"]
        return max(each["hours"] for each in offers if each["provider"] != "guide")

    # Three pictures at 2 s on a card, and 20 s for the model to load.
    assert hours("sentences") - hours("never") == pytest.approx(26 / 3600, abs=0.002)
    (folder / "blue.txt").write_text("a toy")
    assert hours("sentences") - hours("never") == pytest.approx(24 / 3600, abs=0.002)


def test_plan_refuses_what_train_could_not_draft(tmp_path, monkeypatch, capsys):
    folder = pictures(tmp_path / "10_sks toy", red=RED)
    monkeypatch.setattr("tenner.pipeline.drafting.missing_modules", lambda *_: ["onnxruntime"])
    for command in ("plan", "train"):
        assert main([command, *job(tmp_path, folder)]) == 4
        output = " ".join(capsys.readouterr().err.split())
        assert "drafting captions with wd14 needs onnxruntime" in output
    (folder / "red.txt").write_text("a sks toy")
    assert main(["plan", *job(tmp_path, folder)]) == 0


@pytest.mark.parametrize(
    ("caption", "base", "kind"),
    [
        ("never", "illustrious", None), ("auto", "illustrious", "wd14"), ("auto", "sdxl", "qwen"),
        ("tags", "sdxl", "wd14"), ("sentences", "illustrious", "qwen"),
    ],
)  # fmt: skip
def test_the_setting_picks_as_the_command_does(caption, base, kind):
    assert kind_for(Settings(caption=caption, base_model=base)) == kind
