"""A run with a moving average of its weights: drawn, delivered, and with the built-in trainer
alone."""

import json
from pathlib import Path

import pytest
from program import Machine, StandIn
from safetensors import safe_open

ONE = ("--ema", "true", "--ema_decay", "0.5", "--max_train_steps", "4", "--save_every_n_steps", "2")


@pytest.mark.long
def test_the_average_is_delivered_beside_the_raw_weights_and_drawn_beside_them(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path)
    args = [word for word in machine.train("star", *ONE) if word != "--no_samples"]
    few = ("--sample_seeds", "1", "--sample_strengths", "0.8", "--sample_steps", "2")
    assert machine.finish(*args, *few) == 0, machine.output
    delivered = machine.run("star") / "delivered"
    names = {
        each["name"] for each in json.loads((delivered / "manifest.json").read_text())["files"]
    }
    assert {
        "star.safetensors",
        "star-ema.safetensors",
        "checkpoints/star-step00000002.safetensors",
        "checkpoints/star-step00000002-ema.safetensors",
    } <= names
    with (
        safe_open(delivered / "star.safetensors", "pt") as raw,
        safe_open(delivered / "star-ema.safetensors", "pt") as average,
    ):
        assert set(raw.keys()) == set(average.keys())
    listing = json.loads((machine.run("star") / "samples" / "final" / "samples.json").read_text())
    first = [each["cell"] for each in listing["samples"]][:3]
    assert [each["column"] for each in first] == ["0 (base)", "0.8", "0.8 EMA"]
    ledger = machine.ledger("star")
    assert ledger["finished"]["ema"]["name"] == "star-ema.safetensors"
    assert ledger["job"]["ema_decay"] == 0.5


def test_a_machine_with_sd_scripts_takes_the_built_in_trainer_for_it(tmp_path: Path) -> None:
    machine = StandIn(tmp_path)
    args = ("plan", *machine.train("star", "--ema", "true", "--max_train_steps", "4")[1:])
    assert machine.finish(*args, "--engine", "sd-scripts") == 2
    assert "sd-scripts keeps no moving average" in machine.output
    machine.log.unlink()
    assert machine.finish(*args) == 0, machine.output
    assert "sd-scripts keeps no moving average" in machine.output
    assert "native" in machine.output
