"""The learning-rate curves are those of sd-scripts itself.

`curves.json` was written by its own `get_scheduler_fix` (transformers 4.54.1): the factor of each
of 24 steps, for each schedule.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenner.engines.sd_scripts.schedules import MAX_RULES, Schedule, rules, schedule_of

CURVES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "curves.json").read_text(encoding="utf-8")
)


def follow(table: str, count: int) -> float:
    """What diffusers' `get_piecewise_constant_schedule` gives at its own `count`."""
    *written, last = table.split(",")
    found = {int(until): float(factor) for factor, until in (each.split(":") for each in written)}
    return next((found[until] for until in sorted(found) if count < until), float(last))


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: str(curve["options"]))
def test_each_step_has_the_rate_that_sd_scripts_gives_it(curve: dict[str, Any]) -> None:
    factors = curve["factors"]
    schedule = schedule_of(curve["options"], num_steps=len(factors))
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
    assert schedule_of(options, num_steps=10) is None


@given(
    curve=st.sampled_from(CURVES),
    start=st.integers(0, 23),
    processes=st.integers(1, 8),
    fresh=st.booleans(),
)
def test_the_table_holds_the_rest_of_the_curve(
    curve: dict[str, Any], start: int, processes: int, fresh: bool
) -> None:
    schedule = schedule_of(curve["options"], num_steps=24)
    assert schedule is not None
    counted_from = start if fresh else 0
    table = rules(schedule, start=start, num_processes=processes, counted_from=counted_from)
    for step in range(start, 24):
        for part in range(processes):
            count = (step - counted_from) * processes + part
            assert follow(table, count) == pytest.approx(schedule.factor(step), abs=1e-8)


def test_a_long_table_fits_into_one_argument() -> None:
    schedule = Schedule(name="cosine", num_steps=1_000_000, warmup_steps=1000)
    table = rules(schedule, start=3)
    assert len(table.encode()) < 128 * 1024
    assert table.count(",") <= MAX_RULES
    for count in (3, 400_000, 999_999):
        assert follow(table, count) == pytest.approx(schedule.factor(count), abs=0.3)
        if count > 1000:
            assert follow(table, count) == pytest.approx(schedule.factor(count), abs=1e-3)
