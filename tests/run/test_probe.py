"""`batch_size = "max"`: two steps are measured on the card before the training, and believed."""

import json
from pathlib import Path

import pytest
from program import StandIn

from tenner.probing import TOO_MUCH, Probe, correction_of


@pytest.mark.parametrize(
    ("probe", "correction"),
    [
        (Probe(used_gb=16.0), 0.8),
        (Probe(used_gb=24.0), 1.2),
        (Probe(used_gb=None, out_of_memory=True), TOO_MUCH),
        (Probe(used_gb=None), None),
        (Probe(used_gb=1.0), None),  # the steps came between two looks
    ],
)
def test_what_was_measured_corrects_the_model(probe: Probe, correction: float | None) -> None:
    assert correction_of(probe, 20.0) == correction


def plan_of(machine: StandIn, name: str) -> tuple[int, str]:
    """The batch of a run, and the choice that tells of the measurement."""
    plan = json.loads((machine.run(name) / "plan.json").read_text())
    told = [each["reason"] for each in plan["choices"] if each["name"] == "memory"]
    return plan["options"]["train_batch_size"], " ".join(told)


def test_the_card_is_filled_by_measurement_where_max_is_asked(tmp_path: Path) -> None:
    """The stand-in takes 3,000 MiB and 500 an image: less than half of what the model says."""
    machine = StandIn(tmp_path / "pod")
    free = machine.folder / "free"
    free.write_text("24000")
    card = {"name": "NVIDIA GeForce RTX 4090", "memory.total": 24564, "compute_cap": "8.9"}
    card |= {"driver_version": "550.54.14", "memory.free": f"@{free}"}
    machine.describe(card)
    machine.environ |= {"STAND_IN_MEMORY": str(free)}
    words = ("--max_train_steps", "5", "--gradient_checkpointing", "false")
    assert machine.finish(*machine.train("auto", *words)) == 0, machine.said
    assert plan_of(machine, "auto") == (4, "")  # the guide's: nothing is measured without need
    assert machine.finish(*machine.train("max", *words, "--batch_size", "max")) == 0, machine.said
    assert "measuring the memory of a step at batch 13" in machine.said
    batch, told = plan_of(machine, "max")
    assert "measured: batch 13 took 10.0 GB" in told
    assert batch == 20  # all that the dataset's bucket can fill
    (started,) = machine.commands("max")
    assert int(started["train_batch_size"]) == batch
    assert started["max_train_steps"] == "5"


def test_a_step_that_runs_out_of_memory_makes_the_batch_smaller(tmp_path: Path) -> None:
    machine = StandIn(tmp_path / "pod", STAND_IN="oom", STAND_IN_FITS="11")
    words = ("--max_train_steps", "5", "--gradient_checkpointing", "false")
    assert machine.finish(*machine.train("max", *words, "--batch_size", "max")) == 0, machine.said
    batch, told = plan_of(machine, "max")
    assert "measured: batch 13 ran out of memory" in told
    assert batch <= 11
