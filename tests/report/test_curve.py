"""The reading of loss curves, on curves whose truth is known."""

import math
import random
from collections.abc import Callable

import pytest

from tenner.report.curve import read_curve, smooth

Shape = Callable[[float], float]

SHAPES: dict[str, tuple[Shape, set[str]]] = {
    "settles": (lambda t: 0.10 + 0.06 * math.exp(-t / 0.12), {"settled"}),
    "flat": (lambda _: 0.12, {"flat"}),
    "rises": (lambda t: 0.10 + 0.05 * math.exp(-t / 0.1) + 0.06 * max(0, t - 0.5), {"rising"}),
    "falls": (lambda t: 0.16 - 0.07 * t, {"falling"}),
}
SIGMA = 0.35
CURVES = 60


def curve(shape: Shape, num_steps: int, seed: int) -> list[float]:
    draw = random.Random(seed)
    return [
        shape(step / num_steps) * math.exp(draw.gauss(0, SIGMA) - SIGMA**2 / 2)
        for step in range(num_steps)
    ]


@pytest.mark.parametrize("num_steps", [200, 1500, 20_000])
@pytest.mark.parametrize("name", SHAPES)
def test_wrong_readings_are_rare(name: str, num_steps: int) -> None:
    shape, right = SHAPES[name]
    curves = CURVES if num_steps < 20_000 else 10
    found = [
        read_curve(range(num_steps), curve(shape, num_steps, seed)).reading
        for seed in range(curves)
    ]
    abstained = {"noisy", "fell"} if name != "flat" else {"noisy"}
    wrong = [each for each in found if each not in right | abstained]
    assert len(wrong) <= 0.05 * curves, found


@pytest.mark.parametrize(("num_steps", "share"), [(5000, 0.66), (20_000, 0.9)])
@pytest.mark.parametrize("name", SHAPES)
def test_long_curves_are_named(name: str, num_steps: int, share: float) -> None:
    shape, right = SHAPES[name]
    found = [
        read_curve(range(num_steps), curve(shape, num_steps, seed)).reading for seed in range(20)
    ]
    assert sum(each in right for each in found) >= share * len(found), found


def test_noise_that_hides_everything_is_reported() -> None:
    draw = random.Random(0)
    losses = [math.exp(draw.gauss(0, 2)) for _ in range(120)]
    assert read_curve(range(120), losses).reading in {"noisy"}


def test_nan_for_good_and_a_single_nan() -> None:
    losses = [0.1] * 200
    assert read_curve(range(200), [*losses[:150], *[math.nan] * 50]).reading == "nan"
    assert read_curve(range(200), [math.nan, *losses[1:]]).reading == "flat"


def test_a_short_curve_is_not_read() -> None:
    assert read_curve(range(10), [0.1] * 10).reading == "short"
    assert read_curve((), ()).reading == "short"


def test_smoothing_starts_at_the_first_value_and_passes_over_nan() -> None:
    assert smooth([2.0, 2.0, math.nan, 2.0], 0.9) == pytest.approx([2.0, 2.0, 2.0, 2.0])
