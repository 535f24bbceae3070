"""Two steps are measured on the card before the training, and believed: where the card is to be
filled, and where the memory model is unsure."""

import json
from pathlib import Path

import pytest
from program import StandIn

from tenner.core.events import MemoryUsed, Warned
from tenner.pipeline.probing import (
    TOO_MUCH,
    Probe,
    _peak_reported,
    correction_of,
    reason_to_measure,
)
from tenner.planning.batch_choice import HEADROOM
from tenner.planning.vram import CONTEXT_GB


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


@pytest.mark.parametrize(
    ("requested", "needed", "family", "capability", "message"),
    [
        ("max", 5.0, "sd1", (8, 9), "fills the card"),
        ("auto", 10.0, "sd1", (8, 9), ""),
        ("auto", 20 * HEADROOM * 0.9, "sd1", (8, 9), ""),
        ("auto", 20 * HEADROOM * 0.93, "sd1", (8, 9), "within its own error"),
        ("auto", 21.0, "sdxl", (8, 6), "within its own error"),
        ("auto", 12.0, "sd2", (8, 9), "SD 2.x"),
        ("auto", 9.0, "sd2", (8, 9), ""),  # far from the card's limit
        ("auto", 12.0, "sd1", (7, 5), "such a card"),
        ("auto", 12.0, "sd1", None, "such a card"),
        (4, 21.0, "sd2", (7, 5), ""),  # the user's own word
        ("max", None, "sd1", (8, 9), ""),  # the card hides its memory
    ],
)
def test_it_is_measured_where_the_model_is_unsure_and_nowhere_else(
    requested: str | int,
    needed: float | None,
    family: str,
    capability: tuple[int, int],
    message: str,
) -> None:
    why = reason_to_measure(
        requested, needed_gb=needed, free_gb=20.0, family=family, capability=capability
    )
    assert (message in why) if message else not why


def small_card(folder: Path) -> StandIn:
    """A Tesla T4, which the memory model was never held against."""
    machine = StandIn(folder)
    free = machine.folder / "free"
    free.write_text("15000")
    card = {"name": "Tesla T4", "memory.total": 15360, "compute_cap": "7.5"}
    machine.describe(card | {"driver_version": "550.54.14", "memory.free": f"@{free}"})
    machine.environ |= {"STAND_IN_MEMORY": str(free)}
    return machine


def test_auto_is_measured_once_for_all_jobs_and_so_is_the_card_tried(tmp_path: Path) -> None:
    machine = small_card(tmp_path / "pod")
    _, dataset, *args = machine.train("unused")
    lines = [f'dataset = "{dataset}"', f'base_model = "{args[1]}"', "resolution = 512"]
    lines += ["no_samples = true", "max_train_steps = 5"]
    jobs = "".join(f'[[jobs]]\noutput_name = "{n}"\nseed = {n}\n' for n in (1, 2))
    (machine.folder / "jobs.toml").write_text("\n".join(lines) + "\n" + jobs)
    assert machine.finish("batch", "jobs.toml") == 0, machine.output
    assert machine.output.count("measuring the memory of a step") == 1
    assert "within its own error" in machine.output
    assert (machine.folder / "trials").read_text().count("\n") == 1
    batch, reported = plan_of(machine, "1")
    assert "the model estimated" in reported
    assert batch == 8, "more than the model alone dared"
    assert plan_of(machine, "2") == (8, "an earlier run here measured it")


def test_the_built_in_trainers_own_numbers_have_priority_over_the_cards() -> None:
    reported = [
        MemoryUsed(step=each, allocated_bytes=each * 10**9, reserved_bytes=(each + 1) * 10**9)
        for each in (2, 3)
    ]
    assert _peak_reported([Warned(text="slow"), *reported]) == pytest.approx(4.0 + CONTEXT_GB)
    assert _peak_reported([Warned(text="slow")]) is None


def plan_of(machine: StandIn, name: str) -> tuple[int, str]:
    """The batch of a run, and the choice that reports the measurement."""
    plan = json.loads((machine.run(name) / "plan.json").read_text())
    reported = [each["reason"] for each in plan["choices"] if each["name"] == "memory"]
    return plan["options"]["train_batch_size"], " ".join(reported)


def test_the_card_is_filled_by_measurement_where_max_is_set(tmp_path: Path) -> None:
    """The stand-in takes 3,000 MiB and 500 an image: less than half of the model's estimate."""
    machine = StandIn(tmp_path / "pod")
    free = machine.folder / "free"
    free.write_text("24000")
    card = {"name": "NVIDIA GeForce RTX 4090", "memory.total": 24564, "compute_cap": "8.9"}
    card |= {"driver_version": "550.54.14", "memory.free": f"@{free}"}
    machine.describe(card)
    machine.environ |= {"STAND_IN_MEMORY": str(free)}
    args = ("--max_train_steps", "5", "--gradient_checkpointing", "false")
    assert machine.finish(*machine.train("auto", *args)) == 0, machine.output
    assert plan_of(machine, "auto") == (4, "")  # the guide's: nothing is measured without need
    assert machine.finish(*machine.train("max", *args, "--batch_size", "max")) == 0, machine.output
    assert "measuring the memory of a step at batch 13" in machine.output
    batch, reported = plan_of(machine, "max")
    assert "measured: batch 13 took 10.0 GB" in reported
    assert batch == 20  # all that the dataset's bucket can fill
    (started,) = machine.commands("max")
    assert int(started["train_batch_size"]) == batch
    assert started["max_train_steps"] == "5"


def test_a_step_that_runs_out_of_memory_makes_the_batch_smaller(tmp_path: Path) -> None:
    machine = StandIn(tmp_path / "pod", STAND_IN="oom", STAND_IN_FITS="11")
    args = ("--max_train_steps", "5", "--gradient_checkpointing", "false")
    assert machine.finish(*machine.train("max", *args, "--batch_size", "max")) == 0, machine.output
    batch, reported = plan_of(machine, "max")
    assert "measured: batch 13 ran out of memory" in reported
    assert batch <= 11
