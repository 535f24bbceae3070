"""States of a run on a tiny random base: saved when requested, resumed bit for bit, checked."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
from running import assert_same, of_kind, start, train
from safetensors.torch import load_file

from tenner.core.events import (
    Checkpoint,
    Done,
    EpochEnd,
    Failed,
    StateSaved,
    Step,
)
from tenner.engines.native import engine
from tenner.engines.native.engine import EngineExit

pytestmark = pytest.mark.timeout(240)


@pytest.mark.long
def test_a_killed_run_is_resumed_bit_for_bit(base, items, tmp_path: Path) -> None:
    common = {"max_train_steps": 40, "shuffle_caption": True, "caption_dropout_rate": 0.2,
              "flip_aug": True, "save_state_every_n_steps": 20, "noise_offset": 0.05,
              "lr_scheduler": "cosine", "network_dropout": 0.1}  # fmt: skip
    whole = tiny_model.make_job(base, tmp_path / "whole", items, **common)
    train(whole)
    broken = tiny_model.make_job(base, tmp_path / "broken", items, **common)
    process = start(broken)
    state = None
    for line in process.stdout:
        event = engine.read(line)
        if isinstance(event, StateSaved):
            state = event
            process.kill()
            break
    process.communicate()
    assert state is not None
    assert state.step == 20
    resumed = tiny_model.make_job(base, tmp_path / "broken", items, resume=state.path, **common)
    events = train(resumed)
    assert of_kind(events, Step)[0].step == 21
    assert_same(tmp_path / "whole" / "lora.safetensors", tmp_path / "broken" / "lora.safetensors")


def averaged(folder: Path, steps: int, decay: float) -> dict[str, torch.Tensor]:
    """The moving average of the weights that were saved after each step, in double precision."""
    found: dict[str, torch.Tensor] = {}
    for step in range(1, steps + 1):
        name = "lora" if step == steps else f"lora-step{step:08d}"
        weights = load_file(folder / f"{name}.safetensors")
        share = min(decay, (1 + step) / (10 + step))
        for key, value in weights.items():
            now = value.double()
            found[key] = now if step == 1 else share * found[key] + (1 - share) * now
    return found


@pytest.mark.long
def test_the_moving_average_is_that_of_all_steps_and_is_resumed_bit_for_bit(
    base, items, tmp_path: Path
) -> None:
    common = {"max_train_steps": 6, "save_every_n_steps": 1, "save_precision": "float"}
    job = tiny_model.make_job(base, tmp_path / "whole", items, ema_decay=0.4, **common)
    train(job)
    found = load_file(tmp_path / "whole" / "lora-ema.safetensors")
    for key, expected in averaged(tmp_path / "whole", 6, 0.4).items():
        assert torch.allclose(found[key].double(), expected, rtol=1e-5, atol=1e-7), key
    raw = load_file(tmp_path / "whole" / "lora.safetensors")
    assert any(not torch.equal(raw[key], found[key]) for key in raw)

    half = replace(job, output_dir=str(tmp_path / "half"), state_dir=str(tmp_path / "states"))
    Path(half.output_dir).mkdir()
    events = train(replace(half, max_train_steps=3))
    resumed = train(replace(half, resume=of_kind(events, StateSaved)[-1].path))
    assert [each.step for each in of_kind(resumed, Step)] == [4, 5, 6]
    assert of_kind(resumed, Checkpoint)[-1].ema == str(tmp_path / "half" / "lora-ema.safetensors")
    for name in ("lora", "lora-ema"):
        assert_same(
            tmp_path / "whole" / f"{name}.safetensors", tmp_path / "half" / f"{name}.safetensors"
        )

    plain = tiny_model.make_job(base, tmp_path / "plain", items, **common)
    train(plain)
    assert_same(tmp_path / "plain" / "lora.safetensors", tmp_path / "whole" / "lora.safetensors")
    assert not list((tmp_path / "plain").glob("*-ema.safetensors"))


def test_a_signal_saves_the_state_and_ends_with_143(base, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(base, tmp_path, items, max_train_steps=5000)
    process = start(job)
    events = []
    for line in process.stdout:
        events.append(engine.read(line))
        if isinstance(events[-1], Step) and events[-1].step == 3:
            process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == EngineExit.STOPPED
    assert of_kind(events, StateSaved)[-1].step == of_kind(events, Step)[-1].step


def test_the_stop_file_ends_the_run_with_its_epoch(base, items, tmp_path: Path) -> None:
    stop = tmp_path / "STOP"
    stop.touch()
    job = tiny_model.make_job(base, tmp_path, items, stop_file=str(stop), max_train_steps=20)
    events = train(job)
    [step] = [event.step for event in of_kind(events, StateSaved)]
    assert [event.epoch for event in of_kind(events, EpochEnd)] == [1]
    assert [(event.step, event.epoch) for event in of_kind(events, Checkpoint)] == [(step, 1)]
    assert not of_kind(events, Done)


def test_a_damaged_state_is_reported(base, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(base, tmp_path, items, max_train_steps=2)
    state = Path(of_kind(train(job), StateSaved)[-1].path)
    content = bytearray((state / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (state / "state.pt").write_bytes(bytes(content))
    again = tiny_model.make_job(base, tmp_path, items, max_train_steps=4, resume=str(state))
    events = train(again, expected=EngineExit.BROKEN_STATE)
    assert "damaged" in of_kind(events, Failed)[0].text


def test_checkpoints_and_states_are_saved_at_the_requested_steps(
    base, items, tmp_path: Path
) -> None:
    job = tiny_model.make_job(
        base, tmp_path, items, max_train_steps=None, max_train_epochs=3, save_every_n_epochs=1,
        save_every_n_steps=5, keep_states=2,
    )  # fmt: skip
    events = train(job)
    names = [Path(event.path).name for event in of_kind(events, Checkpoint)]
    assert names[-1] == "lora.safetensors"
    assert {"lora-000001.safetensors", "lora-000002.safetensors"} <= set(names)
    assert "lora-step00000005.safetensors" in names
    assert len(list((tmp_path / "state").glob("step-*"))) == 2
