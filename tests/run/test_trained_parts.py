"""A learning rate of 0 leaves a part of the network out; the trigger stays first."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from program import Machine, StandIn
from safetensors import safe_open

from tenner.base.tiny import concept_dir
from tenner.core.train_job import read_job
from tenner.engines.native.captions import draw_caption

pytestmark = pytest.mark.timeout(900)


def tenner(machine: Machine, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tenner", *args],
        cwd=machine.folder,
        env=machine.environ,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def plan(machine: Machine, *args: str) -> dict[str, Any]:
    _, *rest = machine.train("lora", *args)
    done = tenner(machine, "plan", *rest, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("args", "absent", "present"),
    [
        (("--text_encoder_lr", "0"), "lora_te_", "lora_unet_"),
        (("--unet_lr", "0", "--text_encoder_lr", "1e-3"), "lora_unet_", "lora_te_"),
    ],
)
def test_a_part_at_rate_0_has_no_modules_in_the_file(
    tmp_path: Path, args: tuple[str, ...], absent: str, present: str
) -> None:
    machine = Machine(tmp_path)
    assert machine.finish(*machine.train("lora", "--max_train_steps", "2", *args), timeout=400) == 0
    assert "is not trained" in machine.output
    with safe_open(machine.run("lora") / "delivered" / "lora.safetensors", "pt") as file:
        names = list(file.keys())
    assert any(name.startswith(present) for name in names)
    assert not any(name.startswith(absent) for name in names)


def test_sd_scripts_is_given_its_switch_and_the_plan_counts_on_less_memory(tmp_path: Path) -> None:
    machine = StandIn(tmp_path)
    args = ("--max_train_steps", "3", "--text_encoder_lr", "0", "--batch_size", "1")
    assert machine.finish(*machine.train("lora", *args), timeout=400) == 0, machine.output
    assert machine.commands("lora")[0]["network_train_unet_only"] == "true"
    without = plan(machine, *args)
    both = plan(machine, "--max_train_steps", "3", "--batch_size", "1")
    assert without["needed_gb"] < both["needed_gb"]
    only_text = plan(machine, "--unet_lr", "0")
    assert only_text["options"]["network_train_text_encoder_only"] is True


def test_rates_that_leave_nothing_are_an_error_of_the_settings(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for args in (
        ("--unet_lr", "0", "--text_encoder_lr", "0"),
        ("--text_encoder_lr", "0", "--network_train_text_encoder_only", "true"),
    ):
        for command in ("plan", "train"):
            _, *rest = machine.train("lora", *args)
            done = tenner(machine, command, *rest)
            assert (done.returncode, "nothing would be trained" in done.stderr) == (2, True)


def tagged(folder: Path) -> Path:
    """Four pictures of a folder without a trigger in its name, each with five tags."""
    data = folder / "pictures"
    data.mkdir()
    pictures = sorted(next(concept_dir().iterdir()).glob("*.png"))[:4]
    for number, picture in enumerate(pictures):
        shutil.copy(picture, data / picture.name)
        (data / picture.name).with_suffix(".txt").write_text(f"a{number}, b, c, d, e")
    return data


@pytest.mark.parametrize(("trigger", "tags"), [("sks", 1), ("sks, old style", 2)])
def test_the_trigger_stays_first_where_tags_are_shuffled(
    tmp_path: Path, trigger: str, tags: int
) -> None:
    machine = Machine(tmp_path)
    _, _, *rest = machine.train("lora", "--trigger", trigger, "--add_trigger", "true")
    args = (str(tagged(tmp_path)), *rest, "--shuffle_caption", "true")
    done = tenner(machine, "train", *args, "--max_train_steps", "1")
    assert done.returncode == 0, done.stderr
    assert f"keep_tokens = {tags}" in done.stderr
    job = read_job(machine.run("lora") / "job.json")
    drawn = {
        draw_caption(job, item.caption, epoch=0, position=position)
        for item in job.items
        for position in range(20)
    }
    assert len(drawn) > 20
    assert all(each.startswith(f"{trigger}, ") for each in drawn)


def test_sd_scripts_keeps_the_trigger_first_too(tmp_path: Path) -> None:
    machine = StandIn(tmp_path)
    _, _, *rest = machine.train("lora", "--trigger", "sks", "--add_trigger", "true")
    args = (str(tagged(tmp_path)), *rest, "--shuffle_caption", "true", "--max_train_steps", "2")
    assert machine.finish("train", *args) == 0, machine.output
    assert machine.commands("lora")[0]["keep_tokens"] == "1"
    assert machine.finish("train", *args, "--keep_tokens", "3", "--restart") == 0, machine.output
    assert machine.commands("lora")[0]["keep_tokens"] == "3"
