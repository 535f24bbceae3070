"""Whether the trainer's Python computes on the card, and what stands in for what is broken."""

import json
import sys
from pathlib import Path

import pytest

from tenner.hardware.trial import Trial
from tests.hardware.fake_smi import card, install_smi
from tests.hardware.fake_torch import install_torch
from tests.hardware.program import photos, sparse_base, tenner

RTX_4090 = card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9")
VISIBLE = {"CUDA_VISIBLE_DEVICES": "0"}


def trial(env: dict[str, str], *libraries: str) -> Trial:
    return Trial(Path(sys.executable), libraries, {**VISIBLE, **env})


def test_a_good_card_is_tried_with_its_libraries(tmp_path: Path) -> None:
    with trial(install_torch(tmp_path), "xformers", "bitsandbytes") as running:
        tried = running.finish()
    assert (tried.broken, tried.problem) == ({}, None)
    assert (tried.torch, tried.cuda, tried.gpu) == ("2.4.1", "12.1", "NVIDIA GeForce RTX 4090")
    assert tried.architectures == ("sm_80", "sm_86", "sm_90")


@pytest.mark.parametrize(
    ("fault", "cuda", "message", "fix"),
    [
        ("CUDA driver version is insufficient", "12.1", "driver version", "newer driver"),
        ("no kernel image is available for execution", "12.1", "kernel image", "cu128"),
        ("", None, "built without CUDA", "CUDA build of torch"),
        ("CUDA error: unknown error", "12.1", "unknown error", "restart the container"),
    ],
)
def test_a_card_on_which_torch_cannot_compute_is_refused(
    tmp_path: Path, fault: str, cuda: str | None, message: str, fix: str
) -> None:
    with trial(install_torch(tmp_path, fault=fault, cuda=cuda)) as running:
        problem = running.finish().problem
    assert problem is not None
    assert message in problem.text
    assert fix in problem.fix


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ImportError('libcudart.so.11: cannot open shared object file')", "libcudart.so.11"),
        ("import os; os.kill(os.getpid(), 11)", "died of signal 11"),
        ("print('{no json'); raise SystemExit(3)", "SystemExit"),
        ("raise RuntimeError('built for torch 2.6', 'second')", "built for torch 2.6"),
    ],
)
def test_a_library_that_breaks_takes_nothing_else_with_it(
    tmp_path: Path, code: str, message: str
) -> None:
    with trial(install_torch(tmp_path, xformers=code), "xformers", "bitsandbytes") as running:
        tried = running.finish()
    assert list(tried.broken) == ["xformers"]
    assert message in tried.broken["xformers"]
    assert tried.problem is None


def test_a_python_that_is_none_and_one_that_hangs_are_reported(tmp_path: Path) -> None:
    with Trial(tmp_path / "python", (), {}) as running:
        problem = running.finish().problem
    assert problem is not None
    assert "does not start" in problem.text
    hanging = install_torch(tmp_path, bitsandbytes="import time; time.sleep(60)")
    with trial(hanging, "bitsandbytes") as running:
        tried = running.finish(time_limit_seconds=3)
    assert "no answer within 3 s" in tried.broken["bitsandbytes"]


def test_a_trial_that_is_not_waited_for_is_ended(tmp_path: Path) -> None:
    env = install_torch(tmp_path, bitsandbytes="import time; time.sleep(60)")
    with trial(env, "bitsandbytes") as running:
        process = running._process  # pyright: ignore[reportPrivateUsage]
    assert not isinstance(process, str)
    assert process.returncode == -9


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """A rented RTX 4090 with SD 1.5 and a dataset."""
    env = install_smi(tmp_path, [RTX_4090])
    models = sparse_base(tmp_path / "models")
    photos(tmp_path / "photos", 2)
    return env | {"TENNER_MODELS_DIR": str(models)}


def test_a_broken_library_is_replaced_before_the_model_is_loaded(
    machine: dict[str, str], tmp_path: Path
) -> None:
    env = machine | install_torch(
        tmp_path / "modules",
        bitsandbytes="raise RuntimeError('CUDA Setup failed despite GPU being available')",
    )
    done = tenner("train", "photos", "--engine", "native", cwd=tmp_path, env=env)
    assert "warning: AdamW8bit cannot be used, bitsandbytes does not work here" in done.stderr
    assert "CUDA Setup failed" in done.stderr
    plan = json.loads((tmp_path / "output" / "my_lora" / "plan.json").read_text())
    assert plan["options"]["optimizer_type"] == "AdamW"


def test_a_card_that_does_not_compute_ends_the_run_before_it_begins(
    machine: dict[str, str], tmp_path: Path
) -> None:
    env = machine | install_torch(tmp_path / "modules", fault="CUDA error: unknown error")
    done = tenner("train", "photos", "--engine", "native", cwd=tmp_path, env=env)
    assert done.returncode == 4, done.stderr
    assert "the trainer's torch cannot compute on the card" in done.stderr
