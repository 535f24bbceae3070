"""Trainings of tiny random bases: families, precisions, optimizers and options."""

import shutil
import time
from pathlib import Path

import pytest
import tiny_model
import torch
from running import assert_same, of_kind, train
from safetensors import safe_open
from safetensors.torch import load_file

from tenner.core.events import (
    Phase,
    Step,
)

pytestmark = pytest.mark.timeout(240)


def test_a_run_that_recomputes_some_blocks_saves_the_same_weights(
    base, items, tmp_path: Path
) -> None:
    changes = {"max_train_steps": 4, "conv_dim": 2}
    partial = {"gradient_checkpointing": True, "checkpointed_blocks": 3}
    train(tiny_model.make_job(base, tmp_path / "none", items, **changes))
    train(tiny_model.make_job(base, tmp_path / "some", items, **changes, **partial))
    assert_same(tmp_path / "none" / "lora.safetensors", tmp_path / "some" / "lora.safetensors")
    with safe_open(tmp_path / "some" / "lora.safetensors", "pt") as file:
        assert file.metadata()["ss_checkpointed_blocks"] == "3"


@pytest.mark.long
def test_precisions_schedules_and_options_all_learn(base, items, tmp_path: Path) -> None:
    variants = [
        {"mixed_precision": "bf16", "gradient_checkpointing": True},
        {"network_train_unet_only": True, "min_snr_gamma": 5.0, "lr_scheduler": "linear"},
        {"network_train_text_encoder_only": True, "max_token_length": 225, "clip_skip": 2},
        {"conv_dim": 2, "conv_alpha": 1.0, "gradient_accumulation_steps": 2,
         "optimizer_type": "Adafactor", "v_parameterization": True, "zero_terminal_snr": True},
        {"rank_dropout": 0.2, "module_dropout": 0.2, "optimizer_type": "SGD",
         "multires_noise_iterations": 3, "ip_noise_gamma": 0.1},
        {"optimizer_type": "Lion", "mixed_precision": "fp16"},
        {"optimizer_type": "Prodigy", "learning_rate": 1.0, "text_encoder_lr": (1.0,)},
    ]  # fmt: skip
    for index, changes in enumerate(variants):
        job = tiny_model.make_job(base, tmp_path / str(index), items, max_train_steps=3, **changes)
        train(job)
        tensors = load_file(tmp_path / str(index) / "lora.safetensors")
        ups = [value for name, value in tensors.items() if "lora_up" in name]
        assert any(float(up.abs().max()) > 0 for up in ups)
        assert all(bool(torch.isfinite(up).all()) for up in ups)


def test_latents_on_disk_give_the_same_weights(base, items, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    for name in ("first", "second"):
        job = tiny_model.make_job(
            base, tmp_path / name, items, max_train_steps=3, cache_dir=cache, flip_aug=True
        )
        began = time.monotonic()
        train(job)
        assert time.monotonic() > began
    assert len(list((tmp_path / "cache").iterdir())) == 12
    assert_same(tmp_path / "first" / "lora.safetensors", tmp_path / "second" / "lora.safetensors")


def test_sdxl_learns_with_both_text_encoders(base_xl, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(base_xl, tmp_path, items, family="sdxl", learning_rate=1e-2)
    train(job)
    tensors = load_file(tmp_path / "lora.safetensors")
    for prefix in ("lora_te1_", "lora_te2_", "lora_unet_input_blocks_3_1_"):
        moved = [v for n, v in tensors.items() if n.startswith(prefix) and "lora_up" in n]
        assert any(float(value.abs().max()) > 0 for value in moved)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_a_compiled_unet_learns_the_same_and_reports_its_compilation(base, items, tmp_path) -> None:
    events = train(
        tiny_model.make_job(
            base, tmp_path / "compiled", items[:1], max_train_steps=2, torch_compile=True
        )
    )
    text = [phase.detail for phase in of_kind(events, Phase) if phase.name == "compiling"]
    assert len(text) == 2
    assert "the first step took" in text[1]
    plain = train(tiny_model.make_job(base, tmp_path / "one", items[:1], max_train_steps=2))
    losses = [[event.loss for event in of_kind(found, Step)] for found in (plain, events)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_sd2_learns_velocity_as_its_scheduler_sets(items, tmp_path: Path) -> None:
    base = tiny_model.make_base(tmp_path / "base", "sd2")
    train(tiny_model.make_job(base, tmp_path / "run", items, family="sd2", max_train_steps=3))
    with safe_open(tmp_path / "run" / "lora.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_v2"] == "True"
    assert metadata["ss_base_model_version"] == "sd_v2_v"
    assert metadata["modelspec.prediction_type"] == "v"


def test_of_two_text_encoders_one_at_rate_0_is_left_out(base_xl, items, tmp_path: Path) -> None:
    rates = {"text_encoder_lr": (1e-3, 0.0), "max_train_steps": 1}
    job = tiny_model.make_job(base_xl, tmp_path, items, family="sdxl", **rates)
    train(job)
    names = set(load_file(tmp_path / f"{job.output_name}.safetensors"))
    assert any(name.startswith("lora_te1_") for name in names)
    assert not any(name.startswith("lora_te2_") for name in names)
