"""Several cards: the real accelerate starts a process for each, and the run stays one."""

import signal
from pathlib import Path

import pytest
from program import Machine, StandIn

WORDS = ("--max_train_epochs", "6", "--save_every_n_epochs", "2", "--num_processes", "2")


def two_cards(folder: Path, **extra: str) -> StandIn:
    machine = StandIn(folder, STAND_IN_RANKS=str(folder), **extra)
    machine.describe(machine.card, machine.card)
    return machine


@pytest.mark.long
def test_two_cards_train_in_two_processes_and_deliver_once(tmp_path: Path) -> None:
    machine = two_cards(tmp_path)
    assert machine.finish(*machine.train("cat", *WORDS)) == 0, machine.output
    (started,) = machine.commands("cat")
    assert (started["WORLD_SIZE"], started["CUDA_VISIBLE_DEVICES"]) == ("2", "0,1")
    assert started["ddp_timeout"] == "30"
    assert started["ACCELERATE_MIXED_PRECISION"] == started["mixed_precision"] == "bf16"
    assert int(started["OMP_NUM_THREADS"]) <= 4
    same = (tmp_path / "1").read_text().split()
    assert f"--max_train_steps={started['max_train_steps']}" in same, "both do the same job"
    alone = StandIn(tmp_path / "alone")
    assert alone.finish(*alone.train("cat", *WORDS[:-2])) == 0, alone.output
    (one,) = alone.commands("cat")
    # Five batches an epoch, which two share in three turns.
    assert (started["max_train_steps"], one["max_train_steps"]) == ("18", "30")
    assert [each["final"] for each in machine.events("cat", "checkpoint")].count(True) == 1


def test_a_run_on_two_cards_that_is_killed_resumes_from_its_state(tmp_path: Path) -> None:
    machine = two_cards(tmp_path, STAND_IN="crashed", STAND_IN_STEPS="9")
    args = (*WORDS[:2], "--save_every_n_steps", "4", *WORDS[4:])
    assert machine.finish(*machine.train("cat", *args)) == 5, machine.output
    machine.environ["STAND_IN"] = "success"
    assert machine.finish(*machine.train("cat", *args)) == 0, machine.output
    assert machine.commands("cat")[-1]["resume"].endswith("step-00000008")


@pytest.mark.long
def test_two_processes_of_the_built_in_trainer_stop_with_a_state_and_resume(tmp_path: Path) -> None:
    """On a CPU: accelerate's launcher, two real processes and their gradients brought together."""
    machine = Machine(tmp_path)
    args = machine.train("star", "--num_processes", "2", "--max_train_steps", "24")
    args = (*args, "--device", "cpu", "--grace_seconds", "40")
    code = machine.cut(args, lambda: len(machine.events("star", "step")) >= 3, signal.SIGTERM)
    assert code == 143, machine.output
    (state,) = machine.events("star", "state")
    assert machine.finish(*args) == 0, machine.output
    steps = [each["step"] for each in machine.events("star", "step")]
    assert steps == list(range(1, 25)), f"stopped after step {state['step']}"
    assert machine.ledger("star")["finished"]["file"]["step"] == 24
