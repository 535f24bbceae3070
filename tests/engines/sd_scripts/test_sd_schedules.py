"""The learning-rate curves are those of sd-scripts itself.

`curves.json` was written by its own `get_scheduler_fix` (transformers 4.54.1): the factor of each
of 24 steps, for each schedule.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tenner.engines.sd_scripts.schedules import schedule_of
from tests.train_options import train_options

CURVES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "curves.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: str(curve["options"]))
def test_each_step_has_the_rate_that_sd_scripts_gives_it(curve: dict[str, Any]) -> None:
    factors = curve["factors"]
    schedule = schedule_of(train_options(**curve["options"]), num_steps=len(factors))
    assert schedule is not None
    for step, factor in enumerate(factors):
        assert schedule.factor(step) == pytest.approx(factor, abs=1e-8)


@pytest.mark.parametrize(
    "options",
    [
        {"lr_scheduler_type": "CosineAnnealingLR"},
        {"lr_scheduler": "polynomial", "lr_scheduler_args": ("lr_end=1e-6",)},
        {"lr_scheduler": "cosine", "optimizer_type": "AdamWScheduleFree"},
        {"optimizer_type": "Adafactor"},
        {"lr_scheduler": "adafactor:1e-3"},
    ],
)
def test_curves_that_are_not_known_are_not_guessed(options: dict[str, object]) -> None:
    assert schedule_of(train_options(**options), num_steps=10) is None
