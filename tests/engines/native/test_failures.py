"""Failures of the trainer's process: the exit code and the event of each."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
from running import of_kind, train

from tenner.core.events import (
    Failed,
    Warned,
)
from tenner.engines.native.engine import EngineExit

pytestmark = pytest.mark.timeout(240)


def test_losses_that_are_not_finite_end_the_run(base, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(
        base, tmp_path, items, noise_offset=float("inf"), max_nonfinite_steps=3
    )
    events = train(job, expected=EngineExit.NOT_FINITE)
    assert len(of_kind(events, Warned)) == 3
    assert of_kind(events, Failed)[0].kind == "nan"


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"base": "/nowhere/base"}, EngineExit.BASE_MODEL, "base"),
        ({"optimizer_type": "Wonder"}, EngineExit.JOB, "Wonder"),
        ({"optimizer_args": {"betass": 1}}, EngineExit.JOB, "optimizer_args"),
        ({"items": ()}, EngineExit.NO_DATA, "no image"),
        ({"family": "sdxl"}, EngineExit.BASE_MODEL, ""),
        ({"network_weights": "/nowhere.safetensors"}, EngineExit.JOB, "nowhere"),
        ({"optimizer_type": "AdamW8bit"}, EngineExit.JOB, "GPU"),
    ],
)
def test_an_impossible_job_is_reported(base, items, tmp_path, changes, code, text) -> None:
    if changes.get("optimizer_type") == "AdamW8bit" and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    job = replace(tiny_model.make_job(base, tmp_path, items), **changes)
    events = train(job, expected=code)
    assert text in of_kind(events, Failed)[0].text
