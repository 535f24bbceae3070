"""What goes wrong while it trains, through the whole program: rescued, or brought out and named."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from program import LONG_RUN, Machine, StandIn, same_weights, trainer_of

LENGTH = ("--max_train_steps", "12", "--save_every_n_steps", "4")


def delivered_to(folder: Path, *names: str) -> bool:
    return all((folder / name).is_file() for name in names)


def test_out_of_memory_goes_down_the_ladder_and_on_from_the_last_state(tmp_path: Path) -> None:
    machine = StandIn(tmp_path, STAND_IN="oom", STAND_IN_STEPS="4", STAND_IN_FITS="0")
    args = ("--max_train_steps", "24", "--save_every_n_steps", "4")
    assert machine.finish(*machine.train("cat", *args)) == 0, machine.output
    keys = ("train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
    tried = [tuple(each.get(key) for key in keys) for each in machine.commands("cat")]
    assert tried == [
        *(("4", "1", None), ("2", "2", None), ("1", "4", None)),
        ("1", "4", "true"),
    ]
    from_state = [each.get("resume", "")[-13:] for each in machine.commands("cat")]
    assert from_state == ["", "step-00000004", "step-00000008", "step-00000012"]
    assert machine.output.count("still 4 images a step") == 2
    assert [each["step"] for each in machine.events("cat", "step")][-1] == 24
    assert machine.ledger("cat")["savings"]["train_batch_size"] == 1, "for the next attempt"


def test_without_leave_to_freeze_the_text_encoder_it_ends_and_names_what_could_be_allowed(
    tmp_path: Path,
) -> None:
    machine = StandIn(tmp_path, STAND_IN="oom", STAND_IN_STEPS="0", STAND_IN_FITS="-1")
    assert machine.finish(*machine.train("cat", *LENGTH)) == 5, machine.output
    assert "set may_freeze_text_encoder = true, or rent a card with more memory" in machine.output
    assert not any("network_train_unet_only" in each for each in machine.commands("cat"))


def test_a_text_encoder_that_may_be_frozen_is_given_up_last_and_the_run_starts_anew(
    tmp_path: Path,
) -> None:
    destination = tmp_path / "stored"
    machine = StandIn(tmp_path / "pod", STAND_IN="oom", STAND_IN_STEPS="4", STAND_IN_FITS="-1")
    args = (
        "--max_train_steps",
        "24",
        "--save_every_n_steps",
        "4",
        "--destinations",
        str(destination),
    )
    args = (*args, "--may_freeze_text_encoder", "true")
    assert machine.finish(*machine.train("cat", *args)) == 0, machine.output
    keys = ("train_batch_size", "gradient_checkpointing", "network_train_unet_only")
    tried = [tuple(each.get(key) for key in keys) for each in machine.commands("cat")]
    assert tried == [
        *(("4", None, None), ("2", None, None), ("1", None, None)),
        *(("1", "true", None), ("1", "true", "true")),
    ]
    assert "resume" not in machine.commands("cat")[-1], "its states are another network's"
    steps = [each["step"] for each in machine.events("cat", "step")]
    assert steps[-24:] == list(range(1, 25))
    assert machine.ledger("cat")["savings"]["network_train_unet_only"] is True
    names = {path.name for path in (destination / "checkpoints").iterdir()}
    assert names == {f"cat-step{step:08d}.safetensors" for step in (4, 8, 12, 16, 20)}


def copy_at_rest(folder: Path, copy: Path) -> None:
    """A copy, where nothing was changed in the folder meanwhile."""
    try:
        shutil.copytree(folder, copy)
    except shutil.Error:
        shutil.rmtree(copy)


def sent_states(machine: Machine) -> list[int]:
    return [each["step"] for each in machine.events("cat", "sent") if each["what"] == "state"]


@pytest.mark.parametrize("where", ["an empty machine", "here, and the destination knows less"])
def test_states_of_a_network_that_was_given_up_are_resumed_from_nowhere(
    tmp_path: Path, where: str
) -> None:
    destination, before = tmp_path / "stored", tmp_path / "before"
    args = (
        "--max_train_steps",
        "40",
        "--save_every_n_steps",
        "4",
        "--destinations",
        str(destination),
    )
    args = (*args, "--may_freeze_text_encoder", "true", "--batch_size", "1")
    how = {"STAND_IN": "oom", "STAND_IN_STEPS": "16", "STAND_IN_FITS": "-1"}
    first = StandIn(tmp_path / "first", STAND_IN_SECONDS="0.1", **how)

    def has_sent_the_new_networks_state() -> bool:
        sent = sent_states(first)
        if max(sent, default=0) >= 12 and not before.exists():
            copy_at_rest(destination, before)
        return len(sent) > 2 and max(sent) > sent[-1] >= 8

    assert first.cut(first.train("cat", *args), has_sent_the_new_networks_state) == -9, first.output
    second = first
    if where == "an empty machine":
        second = StandIn(tmp_path / "second", **how)
    else:  # as where the first could not reach it any more
        shutil.rmtree(destination)
        before.rename(destination)
    second.environ["STAND_IN_SECONDS"] = "0"
    assert second.finish(*second.train("cat", *args)) == 0, second.output
    started = second.commands("cat")[-1]
    assert started["network_train_unet_only"] == "true"
    assert started["resume"].endswith(("step-00000008", "step-00000012"))


@pytest.mark.parametrize(("allowed", "code"), [("false", 5), ("true", 0)])
def test_a_batch_that_the_user_fixed_is_changed_only_where_that_is_allowed(
    tmp_path: Path, allowed: str, code: int
) -> None:
    machine = StandIn(tmp_path, STAND_IN="oom", STAND_IN_FITS="2")
    args = (*LENGTH, "--batch_size", "4", "--may_change_batch", allowed)
    assert machine.finish(*machine.train("cat", *args)) == code, machine.output
    sizes = {each["train_batch_size"] for each in machine.commands("cat")}
    assert sizes == ({"4"} if code else {"4", "2"})
    assert ("may_change_batch = true" in machine.output) == bool(code)


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ({"STAND_IN": "nan"}, 5, "not a number for 20 steps"),
        ({"STAND_IN": "nan_latents", "STAND_IN_SECONDS": "0.05"}, 5, "replaced with zeros"),
        ({"STAND_IN": "crashed"}, 5, "the trainer crashed (SIGSEGV)"),
        ({"STAND_IN": "killed"}, 4, "restarted 3 times in this attempt"),
        ({"STAND_IN": "bus_error"}, 4, "/dev/shm is full"),
        ({"STAND_IN": "disk_full"}, 4, "No space left"),
    ],
)
def test_what_was_good_until_a_failure_is_delivered_and_the_failure_named(
    tmp_path: Path, how: dict[str, str], code: int, message: str
) -> None:
    machine, destination = StandIn(tmp_path / "pod", STAND_IN_STEPS="9", **how), tmp_path / "stored"
    args = (
        "--max_train_steps",
        "60",
        "--save_every_n_steps",
        "4",
        "--destinations",
        str(destination),
    )
    assert machine.finish(*machine.train("cat", *args)) == code, machine.output
    assert message in machine.output
    assert "delivered and verified: checkpoints/cat-step" in machine.output
    assert delivered_to(destination, "checkpoints/cat-step00000008.safetensors")
    assert not delivered_to(destination, "manifest.json"), "a part is never called the whole"
    ledger = json.loads((destination / ".tenner" / "cat" / "ledger.json").read_text())
    assert ledger["attempts"][0]["ending"] in ("TrainingError", "MachineError")


@pytest.mark.long
def test_a_trainer_that_is_killed_from_outside_is_started_again_in_the_same_attempt(
    tmp_path: Path,
) -> None:
    undisturbed, machine = Machine(tmp_path / "undisturbed"), Machine(tmp_path / "pod")
    args = ("--max_train_steps", "60", "--save_every_n_steps", "5")
    assert undisturbed.finish(*undisturbed.train("star", *args)) == 0, undisturbed.output
    process, killed = machine.start(*machine.train("star", *args)), 0
    for number in (8, 23):
        while process.poll() is None and len(machine.events("star", "step")) < number:
            time.sleep(0.01)
        trainer = trainer_of(process.pid)
        if trainer is not None:
            os.kill(trainer, signal.SIGKILL)
            killed += 1
    assert process.wait(200) == 0, machine.output
    assert machine.output.count("killed from outside (SIGKILL)") == killed > 0
    final = "checkpoints/star.safetensors"
    assert same_weights(machine.run("star") / final, undisturbed.run("star") / final)
    ledger = machine.ledger("star")
    assert [(attempt["first_step"], attempt["last_step"]) for attempt in ledger["attempts"]] == [
        (0, 60)
    ]


@pytest.mark.parametrize(
    ("how", "spares", "given_up"),
    [
        ("bus_error", "0", {"max_data_loader_n_workers": 0}),
        ("killed", "1", {"max_data_loader_n_workers": 0, "cache_latents_to_disk": True}),
    ],
)
def test_a_trainer_that_is_killed_again_resumes_less_of_the_machines_memory(
    tmp_path: Path, how: str, spares: str, given_up: dict[str, object]
) -> None:
    machine = StandIn(tmp_path, STAND_IN=how, STAND_IN_STEPS="9", STAND_IN_SPARES=spares)
    args = (*LENGTH, "--max_data_loader_n_workers", "2")
    assert machine.finish(*machine.train("cat", *args)) == 0, machine.output
    assert machine.ledger("cat")["savings"] == given_up, "for the next attempt"
    assert machine.commands("cat")[0]["max_data_loader_n_workers"] == "2"
    assert machine.commands("cat")[-1]["resume"].endswith("step-00000008")
    assert len(machine.ledger("cat")["attempts"]) == 1


def test_exit_0_without_a_file_is_a_failure(tmp_path: Path) -> None:
    machine = StandIn(tmp_path, STAND_IN="no_file")
    assert machine.finish(*machine.train("cat", *LENGTH)) == 5
    assert "without its final weights" in machine.output


@pytest.mark.long
def test_a_trainer_that_has_saved_all_is_not_waited_for(tmp_path: Path) -> None:
    machine = StandIn(tmp_path, STAND_IN_LINGERS="60")
    assert machine.finish(*machine.train("cat", *LENGTH), timeout=50) == 0, machine.output
    assert [each["step"] for each in machine.events("cat", "step")] == list(range(1, 13))
    assert machine.ledger("cat")["finished"]["file"]["step"] == 12
    assert not machine.events("cat", "failed")


def test_a_host_that_loses_its_card_is_left_in_good_order(tmp_path: Path) -> None:
    machine, destination = StandIn(tmp_path / "pod", STAND_IN_SECONDS="0.1"), tmp_path / "stored"
    smi = machine.folder / "bin" / "nvidia-smi"
    lost = machine.folder / "lost"
    good = smi.rename(smi.with_name("good-smi"))
    fault = "echo 'Failed to initialize NVML: Unknown Error'; exit 255"
    smi.write_text(f'#!/bin/sh\nif [ -e {lost} ]; then {fault}; fi\nexec {good} "$@"\n')
    smi.chmod(0o755)
    machine.environ["STAND_IN_LOSES"] = str(lost)
    args = (
        "--max_train_steps",
        "900",
        "--save_every_n_steps",
        "4",
        "--network_dim",  # 225 checkpoints must fit a small disk
        "4",
        "--destinations",
        str(destination),
    )
    assert machine.finish(*machine.train("cat", *args)) == 4, machine.output
    assert "has lost its card: Failed to initialize NVML: Unknown Error" in machine.output
    assert list(destination.glob(".tenner/cat/state/step-*/complete.json"))


@pytest.mark.long
def test_a_budget_ends_in_a_delivered_state_and_exit_7_and_more_money_resumes(
    tmp_path: Path,
) -> None:
    machine, destination = Machine(tmp_path / "pod"), tmp_path / "stored"
    args = (
        *("--max_train_steps", "3000", "--save_every_n_steps", "500"),
        *("--destinations", str(destination), "--price_per_hour", "1.6"),
    )
    assert machine.finish(*machine.train("star", *args, "--max_cost_usd", "0.01")) == 7
    assert "the budget is used up ($0.0" in machine.output
    assert "delivered and verified: checkpoints/star-" in machine.output  # by its step or its epoch
    last = machine.events("star", "step")[-1]["step"]
    assert list(destination.glob(f".tenner/star/state/step-{last:08d}-*/complete.json"))
    card = (destination / "README.md").read_text()
    assert f"ended early, after {last} of 3000 steps: its budget was reached" in card
    newest = machine.ledger("star")["checkpoints"][-1]["name"]
    assert f'subfolder="checkpoints", weight_name="{newest}")' in card
    assert (destination / "checkpoints" / newest).is_file()
    attempt = machine.ledger("star")["attempts"][0]
    assert (attempt["ending"], attempt["last_step"]) == ("BudgetReached", last)
    assert 0 < attempt["cost_usd"] <= 0.01
    # What was spent counts: the same limit ends the next start before it trains.
    assert machine.finish(*machine.train("star", *args, "--max_cost_usd", "0.01")) == 7
    assert machine.events("star", "step")[-1]["step"] <= last + 40


@pytest.mark.long
def test_a_stop_file_makes_the_last_epoch_the_result(tmp_path: Path) -> None:
    machine, destination = Machine(tmp_path / "pod"), tmp_path / "stored"
    args = ("--max_train_epochs", "400", "--destinations", str(destination))
    process = machine.start(*machine.train("star", *args))
    while process.poll() is None and not machine.events("star", "step"):
        pass
    (machine.run("star") / "STOP").touch()
    assert process.wait(60) == 0, machine.output
    assert delivered_to(destination, "star.safetensors", "manifest.json")
    ended = machine.events("star", "step")[-1]["step"]
    assert ended % 5 == 0
    assert machine.ledger("star")["finished"]["file"]["step"] == ended
    reported = f"**Unfinished:** the training ended early, after {ended} of 2000 steps."
    assert reported in (destination / "README.md").read_text()
    assert machine.finish(*machine.train("star", *args)) == 0
    assert machine.events("star", "step")[-1]["step"] == ended


def test_a_stop_file_ends_sd_scripts_with_its_next_state(tmp_path: Path) -> None:
    machine, destination = StandIn(tmp_path / "pod", STAND_IN_SECONDS="0.05"), tmp_path / "stored"
    args = (*LONG_RUN, "--destinations", str(destination))
    process = machine.start(*machine.train("cat", *args))
    while process.poll() is None and len(machine.events("cat", "step")) < 5:
        pass
    (machine.run("cat") / "STOP").touch()
    assert process.wait(60) == 0, machine.output
    assert delivered_to(destination, "cat.safetensors", "manifest.json")
    finished = machine.ledger("cat")["finished"]["file"]["step"]
    assert 5 <= finished == machine.ledger("cat")["state_step"] < 900
