"""A run whose LoRA learnt nothing does not end as delivered, whichever trainer made it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from program import Machine, StandIn
from safetensors.torch import load_file

from tenner.base.tiny import base_dir
from tenner.lora_files.measured import MeasureJob
from tenner.lora_files.measuring import measure

pytestmark = pytest.mark.timeout(900)

STEPS = ("--max_train_steps", "3")


def weights(machine: Machine, name: str) -> dict[str, dict[str, Any]]:
    (event,) = machine.events(name, "weights")
    return {part["part"]: part for part in event["parts"]}


def lora(machine: Machine, name: str) -> Path:
    return machine.run(name) / "checkpoints" / f"{name}.safetensors"


def test_a_learning_rate_of_zero_is_refused_by_plan_and_train(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    args = machine.train("zero", *STEPS, "--learning_rate", "0")
    for command in ("plan", "train"):
        machine.log.unlink(missing_ok=True)
        assert machine.finish(command, *args[1:]) == 2, machine.output
        assert "nothing would be trained" in machine.output
        assert "set learning_rate, unet_lr or text_encoder_lr above 0" in machine.output
    assert not machine.run("zero").exists()


def test_a_lora_that_learnt_nothing_ends_with_5_and_is_not_delivered(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    args = machine.train("zero", *STEPS, "--learning_rate", "1e-9", "--text_encoder_lr", "1e-9")
    assert machine.finish(*args) == 5, machine.output
    assert "the LoRA learnt nothing: the update of all 96 modules is zero" in machine.output
    assert "what was learnt is too small for fp16 and was saved as zero" in machine.output
    assert "save_precision = 'float' or 'bf16'" in machine.output
    ups = [value for key, value in load_file(lora(machine, "zero")).items() if "lora_up" in key]
    assert len(ups) == 96
    assert not any(up.any() for up in ups)
    assert not (machine.run("zero") / "delivered" / "manifest.json").exists()
    page = (machine.run("zero") / "report.html").read_text()
    assert "learnt nothing" in page
    assert "لم يتعلّم شيئًا" in page
    assert "data-live" not in page  # it is not updated any more
    # A second start trains nothing and reports the same.
    trained = lora(machine, "zero").stat().st_mtime_ns
    assert machine.finish(*args) == 5
    assert lora(machine, "zero").stat().st_mtime_ns == trained


def test_a_rate_at_which_prodigy_learns_nothing_is_refused_before_anything_is_read(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path)
    args = machine.train("prodigy", *STEPS, "--optimizer_type", "Prodigy")
    for command in ("plan", "train"):
        given = (command, *args[1:], "--learning_rate", "1e-4", "--text_encoder_lr", "1e-4")
        machine.log.unlink(missing_ok=True)
        assert machine.finish(*given) == 2, machine.output
        assert "learning_rate = 0.0001: Prodigy learns nothing at such a rate" in machine.output
        assert "set learning_rate = 1, or leave it out" in machine.output
    assert not machine.run("prodigy").exists()


@pytest.mark.long
def test_prodigy_that_moves_nowhere_at_its_own_rate_ends_with_5_and_its_cause(
    tmp_path: Path,
) -> None:
    """By an argument that no table can judge: its first step is next to nothing."""
    machine = Machine(tmp_path)
    own = ("--optimizer_type", "Prodigy", "--optimizer_args", "d0=1e-13", "d_coef=1e-3")
    args = machine.train("prodigy", *STEPS, *own, "--learning_rate", "1")
    assert machine.finish(*args) == 5, machine.output
    assert "the LoRA learnt nothing: the update of all 96 modules is zero" in machine.output
    assert "too small for fp16" in machine.output
    assert lora(machine, "prodigy").is_file()
    assert not (machine.run("prodigy") / "delivered" / "manifest.json").exists()
    usual = machine.train("usual", *STEPS, "--optimizer_type", "Prodigy", "--learning_rate", "1")
    assert machine.finish(*usual) == 0, machine.output
    assert weights(machine, "usual")["unet"]["num_unchanged"] == 0


def test_a_usual_run_tells_how_far_it_moved_the_base(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.finish(*machine.train("usual", *STEPS)) == 0, machine.output
    tensors = load_file(lora(machine, "usual"))
    parts = weights(machine, "usual")
    assert set(parts) == {"unet", "text_encoder"}
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_")):
        squares = 0.0
        for name in {key.partition(".")[0] for key in tensors if key.startswith(prefix)}:
            down = tensors[f"{name}.lora_down.weight"].double().flatten(1)
            up = tensors[f"{name}.lora_up.weight"].double().flatten(1)
            scale = float(tensors[f"{name}.alpha"]) / down.shape[0]
            squares += float((scale * up @ down).square().sum())
        assert parts[part]["norm"] == pytest.approx(math.sqrt(squares), rel=1e-5)
        assert parts[part]["ratio"] == pytest.approx(math.sqrt(squares) / parts[part]["base_norm"])
        assert parts[part]["num_unchanged"] == 0
    page = (machine.run("usual") / "report.html").read_text()
    assert f"{parts['unet']['ratio']:.2g}" in page
    assert "as trained LoRAs" in page
    assert "كسائر ملفات LoRA المدرَّبة" in page


@pytest.mark.long
def test_numbers_that_fp16_cannot_hold_are_saved_in_a_precision_that_can(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path)
    small = (*STEPS, "--learning_rate", "1e-9", "--text_encoder_lr", "1e-9")
    saved = (*small, "--save_precision", "float")
    assert machine.finish(*machine.train("kept", *saved)) == 0, machine.output
    assert "too little to be seen" in machine.output


@pytest.mark.long
def test_going_on_from_a_lora_is_measured_against_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.finish(*machine.train("first", *STEPS)) == 0, machine.output
    start = lora(machine, "first")
    onward = (*STEPS, "--network_weights", str(start))
    still = machine.train("still", *onward, "--learning_rate", "1e-9")
    assert machine.finish(*still) == 5, machine.output
    assert "the LoRA is what it started from: none of its 96 modules changed" in machine.output
    assert machine.finish(*machine.train("moved", *onward)) == 0, machine.output
    parts = weights(machine, "moved")
    assert 0 < parts["unet"]["moved_ratio"] < 2 * parts["unet"]["ratio"]
    job = MeasureJob(path=str(lora(machine, "moved")), base=str(base_dir()), start=str(start))
    found = {part.part: part.moved_ratio for part in measure(job).parts}
    assert parts["unet"]["moved_ratio"] == pytest.approx(found["unet"])
    assert "new in this run" in (machine.run("moved") / "report.html").read_text()


@pytest.mark.long
def test_a_text_encoder_alone_that_stood_still_is_a_warning(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    args = machine.train("half", *STEPS, "--text_encoder_lr", "1e-9")
    assert machine.finish(*args) == 0, machine.output
    assert "warning: the text encoder learnt nothing" in machine.output
    assert weights(machine, "half")["unet"]["num_unchanged"] == 0


def test_sd_scripts_weights_are_judged_alike(tmp_path: Path) -> None:
    machine = StandIn(tmp_path, STAND_IN="learns_nothing")
    assert machine.finish(*machine.train("none", "--max_train_steps", "3")) == 5, machine.output
    assert "the LoRA learnt nothing: the update of all 1 modules is zero" in machine.output
    assert "3 steps changes no number" in machine.output
    assert json.loads((machine.run("none") / "ledger.json").read_text())["delivered_to"] == []


def test_the_share_that_saving_takes_is_that_of_the_numbers_themselves() -> None:
    from tenner.engines.native.lora import LoraBank, LoraSpec
    from tenner.engines.native.lora_file import lost_in_saving

    bank = LoraBank()
    for segment, name in (("unet", "a"), ("text_encoder", "b"), ("text_encoder_2", "c")):
        spec = LoraSpec(name=name, in_features=6, out_features=10, rank=2, alpha=1.0)
        bank.add(segment, (spec,))
    bank.allocate(torch.device("cpu"), torch.float32)
    bank.initialise(1)
    ups = {spec.name: up for spec, _, up in bank.named_views(bank.weights)}
    ups["a"].copy_(torch.linspace(1e-7, 3e-7, 20).view(10, 2))
    ups["b"].fill_(1e-9)
    lost = lost_in_saving(bank, "fp16")
    expected = torch.linalg.norm(ups["a"] - ups["a"].half().float()) / torch.linalg.norm(ups["a"])
    assert lost == {"unet": pytest.approx(float(expected), rel=1e-4), "text_encoder": 1.0}
    assert lost_in_saving(bank, "float") == {"unet": 0.0, "text_encoder": 0.0}
