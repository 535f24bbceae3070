"""`tenner caption`: drafts by a small tagger, written beside the images and nowhere else."""

import os

import pytest
from PIL import Image

from tenner.core.errors import MachineError, SettingsError
from tenner.dataset.captioning.choice import without_words
from tenner.pipeline.captioning import choose_kind, draft_captions
from tenner.pipeline.drafting import CaptionRequest
from tests.dataset.caption_models import BLUE, GREEN, RED, caption, pictures


def test_tags_are_drafted_with_the_trigger_first_and_the_set_then_checks(tmp_path, model, capsys):
    folder = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN, blue=BLUE)
    Image.new("RGBA", (96, 32), (0, 0, 0, 0)).save(folder / "clear.png")
    (folder / "broken.png").write_bytes(b"x")
    assert caption(folder, model) == 0
    output = capsys.readouterr().out
    assert "4 captions drafted by the WD14 tagger on cpu" in output
    assert "left out: broken.png: no image format" in output
    texts = {path.stem: path.read_text() for path in folder.glob("*.txt")}
    assert texts == {
        "red": "sks toy, red sky, ^_^\n",
        "green": "sks toy, some one, green sky\n",
        "blue": "sks toy, blue sky\n",
        # white behind what is transparent: every colour is there
        "clear": "sks toy, some one, red sky, green sky, blue sky, ^_^\n",
    }


def test_what_a_human_wrote_or_edited_stays_and_a_second_start_drafts_the_rest(
    tmp_path, model, capsys
):
    folder = pictures(tmp_path / "photos", red=RED, green=GREEN, blue=BLUE)
    (folder / "red.txt").write_text("mine")
    (folder / "blue.caption").write_text("mine too")
    assert caption(folder, model) == 0
    assert (folder / "green.txt").read_text() == "some one, green sky\n"
    assert not (folder / "blue.txt").exists()
    (folder / "green.txt").write_text("edited")
    pictures(folder, more=RED)
    assert caption(folder, model) == 0
    assert "2 captions not ours" not in capsys.readouterr().out.splitlines()[-1]
    assert (folder / "red.txt").read_text() == "mine"
    assert (folder / "green.txt").read_text() == "edited"
    assert (folder / "more.txt").read_text() == "red sky, ^_^\n"
    before = (folder / "more.txt").stat().st_mtime_ns
    aside = model.rename(tmp_path / "aside")
    assert caption(folder, model) == 0  # nothing is missing: no model is loaded
    aside.rename(model)
    assert (folder / "more.txt").stat().st_mtime_ns == before
    assert caption(folder, model, "--overwrite", "--trigger", "sks") == 0
    assert (folder / "red.txt").read_text() == "sks, red sky, ^_^\n"


def test_our_own_drafts_are_made_anew_when_options_change(tmp_path, model, capsys):
    folder = pictures(tmp_path / "photos", red=RED, green=GREEN)
    caption(folder, model)
    (folder / "green.txt").write_text("edited")
    assert caption(folder, model, "--leave_out", "^_^", "--trigger", "sks") == 0
    assert (folder / "red.txt").read_text() == "sks, red sky\n"
    assert (folder / "green.txt").read_text() == "edited"
    assert caption(folder, model, "--threshold", "0.99", "--trigger", "sks") == 0
    assert (folder / "red.txt").read_text() == "sks, red sky\n"
    assert caption(folder, model, "--threshold", "0.999") == 3
    assert "no tag is likely enough" in capsys.readouterr().out
    assert (folder / "red.txt").read_text() == "sks, red sky\n"


def test_a_read_only_folder_gets_its_captions_elsewhere(tmp_path, model):
    folder = pictures(tmp_path / "set", red=RED)
    pictures(folder / "10_x", green=GREEN)
    Image.new("RGB", (64, 64), BLUE).save(folder / "red.jpg")
    assert caption(folder, model, "--output", str(tmp_path / "captions")) == 0
    found = {
        path.relative_to(tmp_path / "captions").as_posix(): path.read_text()
        for path in (tmp_path / "captions").rglob("*.txt")
    }
    assert found == {
        "red.png.txt": "red sky, ^_^\n", "red.jpg.txt": "blue sky\n",
        "10_x/green.txt": "x, some one, green sky\n",
    }  # fmt: skip
    assert {path.suffix for path in folder.rglob("*.*")} == {".png", ".jpg"}


def test_a_killed_start_is_resumed(tmp_path, model):
    folder = pictures(tmp_path / "many", **{f"p{n}": RED for n in range(4)})
    request = CaptionRequest(folder=folder, model=model, device="cpu")

    class Killed(Exception):
        pass

    def kill(what: str, done: int, total: int | None) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        draft_captions(request, os.environ, kill)
    note = folder / ".tenner-captions.jsonl"
    note.write_text(note.read_text() + '{"name": "cut')
    result = draft_captions(request, os.environ)
    assert (len(result.drafted), result.drafted_before, result.humans) == (2, 2, ())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("selected_tags.csv", "names 6 tags, selected_tags.csv 5"),
        ("model.onnx", "cannot be loaded"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path, model, spoil, message
):
    folder = pictures(tmp_path / "photos", red=RED)
    lines = (model / spoil).read_bytes().splitlines(keepends=True)
    (model / spoil).write_bytes(b"".join(lines[:-1]) or b"x")
    with pytest.raises(MachineError, match=message):
        draft_captions(CaptionRequest(folder=folder, model=model, device="cpu"), os.environ)
    assert list(folder.iterdir()) == [folder / "red.png"]
    with pytest.raises(SettingsError, match="lacks config"):
        draft_captions(CaptionRequest(folder=folder, model=model, kind="blip"), os.environ)


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("illustrious", "wd14"), ("hf://Laxhar/noobai-XL-1.1", "wd14"), ("sdxl", "qwen"),
        ("/models/ponyDiffusionV6XL.safetensors", "wd14"), ("sd15", "qwen"), ("", "wd14"),
        ("/models/waiNSFWIllustrious_v140.safetensors", "wd14"), ("/models/wai-v14.ckpt", "wd14"),
        ("/home/manga/all/juggernautXL_v9.safetensors", "qwen"), ("flux-dev", "qwen"),
        ("hf://SG161222/RealVisXL_V5.0", "qwen"), ("C:\\sd\\animagine-xl-4.0.safetensors", "wd14"),
    ],
)  # fmt: skip
def test_the_base_decides_between_tags_and_sentences(base, kind):
    assert choose_kind("auto", base, None) == kind
    assert choose_kind("blip", base, None) == "blip"


@pytest.mark.parametrize(
    ("text", "words", "left"),
    [
        ("A woman, smiling, in a red hat.", ("smiling",), "A woman, in a red hat."),
        ("A woman with Blonde Hair, on a chair.", ("with blonde hair",), "A woman, on a chair."),
        ("A hatter with a hat", ("hat",), "A hatter with a"),
        ("blue", ("blue",), ""),
        ("C++ (1)", ("(1)",), "C++"),
    ],
)
def test_words_are_left_out_of_sentences_with_what_they_leave_behind(text, words, left):
    assert without_words(text, words) == left


def test_a_tagger_takes_no_prompt(tmp_path, model):
    folder = pictures(tmp_path / "photos", red=RED)
    with pytest.raises(SettingsError, match="takes none"):
        draft_captions(CaptionRequest(folder=folder, model=model, prompt="x"), os.environ)
