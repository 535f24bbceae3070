"""The whole program on a card that recomputes some of the U-Net's blocks: the trainer's own first
steps are measured there, and the number of blocks is chosen anew by what they took."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from program import Machine, environment
from safetensors import safe_open

from tenner.base.tiny import base_dir, concept_dir
from tenner.planning.batch_choice import HEADROOM
from tenner.planning.vram import CONTEXT_GB, Load, needed_gb
from tests.hardware.fake_smi import card, install_smi
from tests.hardware.fake_torch import install_torch

TRAINER = """#!/bin/sh
case "$*" in
  *try_torch*) PYTHONPATH={modules} exec {python} "$@";;
  *native.train*) {python} -I -S {folder}/card.py "$3" || exit 1;;
esac
exec {python} "$@"
"""
CARD = """
import json, sys
job = json.load(open(sys.argv[1]))
names = ("max_train_steps", "train_batch_size", "gradient_checkpointing", "checkpointed_blocks")
with open({started!r}, "a") as file:
    print(json.dumps([job[name] for name in names]), file=file)
took = {{"event": "memory", "step": 2, "allocated_bytes": 1, "reserved_bytes": {reserved}}}
print(json.dumps(took))
"""
"""What a card adds to the trainer's lines, which runs on the CPU here: the peak of its steps."""
LOAD = Load(
    family="sd1", pixels=64 * 64, network_dim=4, optimizer="AdamW", engine="native"
)  # of SD 1.5, which the tiny base is taken for


class SmallCard(Machine):
    """A machine whose card has so much free memory, and whose trainer takes `took_gb` of it."""

    def __init__(self, folder: Path, *, free_mib: int, took_gb: float) -> None:
        super().__init__(folder)
        self.environ = environment(TENNER_TRAINER_PYTHON=str(folder / "python"))
        name = "NVIDIA GeForce RTX 3060"
        install_smi(folder, [card(name, 12288, "550.54.14", "8.6", free=free_mib)])
        self.environ["PATH"] = f"{folder}{os.pathsep}{self.environ['PATH']}"
        self.starts = folder / "starts"
        reserved = round((took_gb - CONTEXT_GB) * 1e9)
        (folder / "card.py").write_text(CARD.format(started=str(self.starts), reserved=reserved))
        modules = install_torch(folder / "modules")["PYTHONPATH"]
        python = folder / "python"
        python.write_text(TRAINER.format(modules=modules, python=sys.executable, folder=folder))
        python.chmod(0o755)
        base = folder / "base"
        shutil.copytree(base_dir(), base)
        unused = base / "safety_checker" / "model.safetensors"
        unused.parent.mkdir()
        unused.touch()
        os.truncate(unused, 200_000_000)  # as large as no tiny base is
        self.base = base


def needed(batch_size: int, blocks: int | None) -> float:
    """By the model; None is all blocks, 0 none."""
    return needed_gb(
        LOAD,
        batch_size=batch_size,
        gradient_checkpointing=blocks != 0,
        checkpointed_blocks=blocks or None,
    )


@pytest.mark.long
def test_blocks_are_chosen_anew_by_what_the_first_steps_took(tmp_path: Path) -> None:
    """A card that takes four images with all activations, and eight with some recomputed."""
    free_mib = round((needed(4, 0) + needed(5, 0)) / 2 / HEADROOM * 1e9 / 2**20)
    usable = free_mib * 2**20 / 1e9 * HEADROOM
    fewest = next(blocks for blocks in range(1, 38) if needed(8, blocks) <= usable)
    factor = 1.008
    machine = SmallCard(tmp_path / "pod", free_mib=free_mib, took_gb=needed(8, fewest) * factor)
    more = next(blocks for blocks in range(1, 38) if needed(8, blocks) * factor <= usable)
    assert more > fewest
    args = ("train", str(concept_dir()), "--base_model", str(machine.base), "--engine", "native")
    args += ("--resolution", "64", "--min_bucket_reso", "64", "--network_dim", "4", "--no_samples")
    args += ("--optimizer_type", "AdamW", "--network_train_unet_only", "true")
    args += ("--output_name", "cat", "--max_train_steps", "3")
    assert machine.finish(*args) == 0, machine.output
    assert "measuring the memory of a step at batch 8" in machine.output
    probe, training = map(json.loads, machine.starts.read_text().splitlines())
    assert probe == [2, 8, True, fewest]
    assert training == [3, 8, True, more]
    plan = json.loads((machine.run("cat") / "plan.json").read_text())
    reasons = {each["name"]: each for each in plan["choices"]}
    assert reasons["memory"]["value"] == "1.01 of the model's estimate"
    assert reasons["checkpointing"]["value"] == f"recomputes {more} of 38 blocks"
    (weights,) = (machine.run("cat") / "delivered").rglob("cat.safetensors")
    with safe_open(weights, "pt") as file:
        assert file.metadata()["ss_checkpointed_blocks"] == str(more)
