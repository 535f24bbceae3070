"""Files of prompts are read as sd-scripts reads them, and what is wrong in them is reported by
line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tenner.core.errors import SettingsError
from tenner.sample.cells import grid_cells
from tenner.settings.prompt_lines import PromptLine, parse_prompt, read_prompts
from tenner.settings.resolve import load_request

LINES = """# two prompts

sks cat, red --n blurry, low quality --w 520 --h 768 --d 7 --l 5.5 --s 12
  sks cat in a box
"""


def resolved(**flags: Any) -> Any:
    return load_request(flags, {}, read_default_config=False)


def test_a_line_with_options() -> None:
    found = parse_prompt("a cat --n a dog, ugly --W 514 --h 40 --d 9 --l 4 --s 2000 --ss ddim")
    # Sizes are multiples of 8 from 64 on and steps at most 1000, as in sd-scripts.
    assert found == PromptLine(
        text="a cat", negative="a dog, ugly", width=512, height=64, seed=9, guidance=4.0, steps=1000
    )
    assert parse_prompt("well--known -- and 2 --3") == PromptLine(text="well--known -- and 2 --3")


def test_text_toml_and_json_mean_the_same(tmp_path: Path) -> None:
    keys = {"prompt": "sks cat, red", "negative_prompt": "blurry, low quality", "width": 520}
    keys |= {"height": 768, "seed": 7, "scale": 5.5, "sample_steps": 12}
    (tmp_path / "p.txt").write_text(LINES)
    (tmp_path / "p.json").write_text(json.dumps([keys, "sks cat in a box"]))
    toml = '[prompt]\nwidth = 520\nheight = 768\n[[prompt.subset]]\nprompt = "sks cat, red"\n'
    toml += 'negative_prompt = "blurry, low quality"\nseed = 7\nscale = 5.5\nsample_steps = 12\n'
    (tmp_path / "p.toml").write_text(toml)
    first = PromptLine(
        text="sks cat, red",
        negative="blurry, low quality",
        width=520,
        height=768,
        seed=7,
        guidance=5.5,
        steps=12,
    )
    for name, count in (("p.txt", 2), ("p.json", 2), ("p.toml", 1)):
        lines, problems = read_prompts([str(tmp_path / name)])
        assert (len(lines), problems) == (count, ())
        assert parse_prompt(lines[0]) == first


def test_a_file_becomes_pictures_with_the_options_of_each_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(LINES)
    settings = resolved(sample_prompts=str(tmp_path / "p.txt"), sample_seeds="1,2").settings
    cells = grid_cells(settings, ["other"], "sks cat")
    own = [each for each in cells if each.prompt == "sks cat, red"]
    assert {(each.width, each.height, each.steps, each.guidance_scale) for each in own} == {
        (520, 768, 12, 5.5)
    }
    assert {each.seed for each in own} == {7}
    assert "520×768, guidance 5.5, 12 steps, without: blurry, low quality" in own[0].group
    second = [each for each in cells if each.prompt == "sks cat in a box"]
    assert {(each.width, each.seed) for each in second} == {(None, 1), (None, 2)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "there is no such file"),
        ("p.txt", "a cat\n\na dog --w wide\n", "p.txt, line 3: --w expects a whole number"),
        ("p.txt", "a cat --q 3\n", "p.txt, line 1: --q is no option of a prompt"),
        ("p.txt", "# nothing\n", "it holds no prompt"),
        ("p.json", '[{"promt": "a cat"}]', "prompt 1 has an unknown key 'promt'"),
        ("p.json", "[", "Expecting value"),
        ("p.toml", 'a = "cat"', "expected a table [prompt]"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_the_settings(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SettingsError) as found:
        resolved(sample_prompts=str(tmp_path / name))
    assert message in str(found.value)
    assert all(each.fix for each in found.value.problems)


def test_captions_are_no_lines_with_options() -> None:
    cells = grid_cells(resolved().settings, ["a cat --odd"], "")
    assert {each.prompt for each in cells} == {"a cat --odd"}
