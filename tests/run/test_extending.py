"""A finished run is made longer: it resumes from its last state and is delivered anew."""

import json
import shutil
from pathlib import Path

import pytest
from program import Machine, StandIn, same_weights
from safetensors import safe_open

pytestmark = pytest.mark.timeout(900)

CONSTANT = ("--lr_scheduler", "constant", "--save_every_n_steps", "3")


def manifest(machine: Machine, name: str) -> dict[str, str]:
    found = json.loads((machine.run(name) / "delivered" / "manifest.json").read_text())
    return {each["name"]: each["sha256"] for each in found["files"]}


def rename_trainer(machine: Machine, name: str) -> None:
    """Make the run one of an earlier version, which called the built-in trainer `diffusers`."""
    path = machine.run(name) / "ledger.json"
    ledger = json.loads(path.read_text())
    assert ledger["job"]["engine"] == "native"
    ledger["job"]["engine"] = "diffusers"
    path.write_text(json.dumps(ledger))


@pytest.mark.long
def test_a_delivered_run_is_extended_to_the_weights_of_one_that_was_as_long_from_the_start(
    tmp_path: Path,
) -> None:
    machine, whole = Machine(tmp_path / "one"), Machine(tmp_path / "whole")
    assert (
        machine.finish(*machine.train("star", *CONSTANT, "--max_train_steps", "4"), timeout=400)
        == 0
    )
    before = manifest(machine, "star")
    short = (machine.run("star") / "checkpoints" / "star.safetensors").read_bytes()
    rename_trainer(machine, "star")
    args = (*CONSTANT, "--max_train_steps", "7")
    assert (
        machine.finish(*machine.train("star", *args, "--engine", "diffusers"), timeout=400) == 0
    ), machine.output
    assert "extended from 4 to 7 steps and resumes after step 4" in machine.output
    assert "the learning rate continues as it was" in machine.output
    assert [each["step"] for each in machine.events("star", "step")] == [1, 2, 3, 4, 5, 6, 7]
    assert whole.finish(*whole.train("star", *args), timeout=400) == 0, whole.output
    final = Path("delivered", "star.safetensors")
    assert same_weights(machine.run("star") / final, whole.run("star") / final)
    with safe_open(machine.run("star") / final, "pt") as file:
        text = file.metadata()
    assert (text["ss_steps"], text["ss_max_train_steps"]) == ("7", "7")
    ledger = machine.ledger("star")
    assert [(attempt["first_step"], attempt["ending"]) for attempt in ledger["attempts"]] == [
        (0, "delivered"),
        (4, "delivered"),
    ]
    assert ledger["finished"]["file"]["step"] == 7
    assert len(ledger["delivered_to"]) == 1
    now = manifest(machine, "star")
    assert now["star.safetensors"] != before["star.safetensors"]
    assert now["checkpoints/star-step00000004.safetensors"] == before["star.safetensors"]
    saved = machine.run("star") / "checkpoints" / "star-step00000004.safetensors"
    assert saved.read_bytes() == short
    assert machine.finish(*machine.train("star", *args), timeout=400) == 0
    assert "delivered before" in machine.output, "a third start trains nothing"


@pytest.mark.long
def test_the_stretched_schedule_is_reported_and_a_shorter_or_other_run_is_refused(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path)
    args = ("--lr_scheduler", "linear", "--lr_warmup_steps", "0", "--save_every_n_steps", "9")
    assert machine.finish(*machine.train("star", *args, "--max_train_steps", "4"), timeout=400) == 0
    assert machine.finish(*machine.train("star", *args, "--max_train_steps", "3"), timeout=400) == 2
    assert "max_train_steps: 4 → 3" in machine.output
    other = (*args, "--max_train_steps", "8", "--seed", "7")
    assert machine.finish(*machine.train("star", *other), timeout=400) == 2
    assert "seed: 42 → 7" in machine.output
    assert machine.finish(*machine.train("star", *args, "--max_train_steps", "8"), timeout=400) == 0
    # A line from 1 to 0: after 3 of 4 steps a quarter is left, after 4 of 8 a half.
    assert "was at 25 % of its full value and resumes at 50 %" in machine.output
    rates = [each["lr"]["unet"] for each in machine.events("star", "step")]
    assert rates[-4:] == pytest.approx([1e-3 * left / 8 for left in (4, 3, 2, 1)])


def test_without_a_state_it_is_reported_what_can_be_done(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    args = (*CONSTANT, "--max_train_steps")
    assert machine.finish(*machine.train("star", *args, "2"), timeout=400) == 0
    shutil.rmtree(machine.run("star") / "state")
    ledger = machine.ledger("star")
    assert machine.finish(*machine.train("star", *args, "4"), timeout=400) == 2
    assert "its last state no longer exists" in machine.output
    assert "set network_weights to" in machine.output
    assert machine.ledger("star") == ledger, "what was delivered stays what it is"


def test_sd_scripts_resumes_from_its_last_state_too(tmp_path: Path) -> None:
    machine = StandIn(tmp_path)
    args = ("--max_train_steps", "8", "--save_every_n_steps", "4")
    assert machine.finish(*machine.train("cat", *args), timeout=400) == 0, machine.output
    longer = ("--max_train_steps", "14", "--save_every_n_steps", "4")
    assert machine.finish(*machine.train("cat", *longer), timeout=400) == 0, machine.output
    first, second = machine.commands("cat")
    assert "resume" not in first
    assert second["resume"].endswith("step-00000008")
    assert (second["max_train_steps"], second["initial_step"]) == ("14", "8")
    assert second["lr_scheduler"] == first["lr_scheduler"]
    ledger = machine.ledger("cat")
    assert ledger["finished"]["file"]["step"] == 14
    assert [attempt["first_step"] for attempt in ledger["attempts"]] == [0, 8]
    names = manifest(machine, "cat")
    assert {"cat.safetensors", "checkpoints/cat-step00000008.safetensors"} <= names.keys()


def test_epochs_are_raised_too_and_an_extension_that_is_cut_resumes(tmp_path: Path) -> None:
    machine = StandIn(tmp_path)
    args = ("--save_every_n_steps", "4", "--batch_size", "8", "--max_train_epochs")
    assert machine.finish(*machine.train("cat", *args, "2"), timeout=400) == 0, machine.output
    done = machine.ledger("cat")["finished"]["file"]["step"]
    machine.environ |= {"STAND_IN": "crashed", "STAND_IN_STEPS": "5"}
    assert machine.finish(*machine.train("cat", *args, "9"), timeout=400) == 5, machine.output
    del machine.environ["STAND_IN"]
    assert machine.finish(*machine.train("cat", *args, "9"), timeout=400) == 0, machine.output
    ledger = machine.ledger("cat")
    assert ledger["finished"]["file"]["step"] == done // 2 * 9
    assert [attempt["first_step"] for attempt in ledger["attempts"]][:2] == [0, done]
    assert ledger["attempts"][2]["first_step"] > done
