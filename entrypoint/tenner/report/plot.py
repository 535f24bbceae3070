"""The loss plot as numbers for an SVG: what is drawn where. Pure.

A run of any length becomes at most `MAX_BANDS` ranges of the raw loss (the middle 80 %) and
`MAX_POINTS` points of the smoothed one. The scale follows the smoothed line and the middle of the
raw values, so that one wild step does not press the rest flat; what stands above is cut at the
frame.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tenner.report.curve import smooth
from tenner.report.facts import LossCurve

_Scale = Callable[[float], float]

MAX_POINTS = 400
MAX_BANDS = 120
STEPS_IN_A_BAND = 6  # fewer have no range to speak of
WIDTH, HEIGHT = 720.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 24.0, 12.0, 26.0
RATE_HEIGHT = 64.0


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis: its position in the drawing, and its text."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class RateLine:
    """The line of one part's learning rate."""

    name: str
    points: str
    last: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """SVG coordinates in a box of `width` x `height`, and the values for those who point at it."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    band: str
    line: str
    y_ticks: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]
    epochs: tuple[Tick, ...]
    validation: tuple[tuple[float, float], ...]
    """Where the loss on held-out images stands."""
    rates: tuple[RateLine, ...]
    rate_height: float
    rate_top: str
    values: tuple[tuple[int, float, float], ...]  # step, smoothed loss, x


def plot_curve(curve: LossCurve) -> Plot | None:
    """The plot, or None where fewer than two steps have a finite loss."""
    points = [
        (step, loss)
        for step, loss in zip(curve.steps, curve.losses, strict=True)
        if math.isfinite(loss)
    ]
    if len(points) < 2:
        return None
    steps = [step for step, _ in points]
    losses = [loss for _, loss in points]
    smoothed = smooth(losses, smoothing_weight(len(points)))
    columns = _columns(len(points))
    low, high = _limits(losses, smoothed, columns, [loss for _, loss in curve.validation])
    span = max(1, steps[-1] - steps[0])

    def x(step: float) -> float:
        return round(LEFT + (step - steps[0]) / span * (WIDTH - LEFT - RIGHT), 1)

    def y(loss: float) -> float:
        inside = min(max(loss, low), high)
        return round(HEIGHT - BOTTOM - (inside - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    bands = _columns(len(points), max(2, min(MAX_BANDS, len(points) // STEPS_IN_A_BAND)))
    ranges = [(x(steps[(start + end) // 2]), *_middle(losses[start:end])) for start, end in bands]
    tops = [(at, y(high_loss)) for at, _, high_loss in ranges]
    bottoms = [(at, y(low_loss)) for at, low_loss, _ in ranges]
    line = [(x(steps[end - 1]), y(smoothed[end - 1])) for _, end in columns]
    rates, rate_top = _rates(curve, x)
    return Plot(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        band=_path([*tops, *reversed(bottoms)]),
        line=_path(line),
        y_ticks=tuple(Tick(at=y(value), label=f"{value:g}") for value in nice_ticks(low, high, 5)),
        x_ticks=tuple(
            Tick(at=x(value), label=f"{value:,.0f}")
            for value in nice_ticks(steps[0], steps[-1], 6)
            if value == int(value)
        ),
        validation=tuple((x(step), y(loss)) for step, loss in curve.validation),
        epochs=_epochs(curve.epoch_ends, steps, x),
        rates=rates,
        rate_height=RATE_HEIGHT,
        rate_top=rate_top,
        values=tuple(
            (steps[end - 1], round(smoothed[end - 1], 5), x(steps[end - 1])) for _, end in columns
        ),
    )


def _middle(losses: Sequence[float]) -> tuple[float, float]:
    """The range that holds the middle four fifths."""
    ordered = sorted(losses)
    cut = len(ordered) // 10
    return ordered[cut], ordered[-1 - cut]


def smoothing_weight(num_steps: int) -> float:
    """About a twentieth of the run in one value, between 5 and 250 steps."""
    return 1 - 1 / min(250.0, max(5.0, num_steps / 20))


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round values inside `low`..`high`, about `about` of them, in steps of 1, 2 or 5 times a power
    of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * each for each in (1, 2, 5, 10) if size * each >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _columns(num_points: int, at_most: int = MAX_POINTS) -> list[tuple[int, int]]:
    count = min(num_points, at_most)
    edges = [round(index * num_points / count) for index in range(count + 1)]
    return list(pairwise(edges))


def _limits(
    losses: Sequence[float],
    smoothed: Sequence[float],
    columns: Sequence[tuple[int, int]],
    validation: Sequence[float],
) -> tuple[float, float]:
    """The lowest and highest loss on the axis: all smoothed and validation values, and the raw ones
    without their lowest and highest 2 %, with a margin of 6 %."""
    ordered = sorted(losses)
    low = min(ordered[len(ordered) // 50], *validation, *(smoothed[end - 1] for _, end in columns))
    high = max(
        ordered[-1 - len(ordered) // 50], *validation, *(smoothed[end - 1] for _, end in columns)
    )
    margin = (high - low or abs(high) or 1.0) * 0.06
    return max(0.0, low - margin) if low >= 0 else low - margin, high + margin


def _rates(curve: LossCurve, x: _Scale) -> tuple[tuple[RateLine, ...], str]:
    """The lines of the learning rates, scaled to the highest of all, and that rate as text."""
    series = {name: rates for name, rates in curve.learning_rates.items() if any(rates)}
    top = max((max(rates) for rates in series.values()), default=0.0)
    if not top > 0 or not math.isfinite(top):
        return (), ""
    columns = _columns(len(curve.steps))
    lines: list[RateLine] = []
    for name, rates in series.items():
        coordinates = [
            (x(curve.steps[end - 1]), round(RATE_HEIGHT - 4 - rates[end - 1] / top * 52, 1))
            for _, end in columns
        ]
        lines.append(RateLine(name=name, points=_path(coordinates), last=f"{rates[-1]:.3g}"))
    return tuple(lines), f"{top:.3g}"


def _epochs(ends: Sequence[int], steps: Sequence[int], x: _Scale) -> tuple[Tick, ...]:
    """Where epochs end; at most 30 lines, named by their number."""
    every = -(-len(ends) // 30) or 1
    return tuple(
        Tick(at=x(end), label=str(number))
        for number, end in enumerate(ends, start=1)
        if number % every == 0 and steps[0] <= end <= steps[-1]
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
