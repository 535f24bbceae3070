"""An early end by the loss: only where it was requested, and not by one lucky reading."""

import math
import random
from pathlib import Path

import pytest

from tenner.core.events import EpochEnd, Event, Warned
from tenner.core.run_dir import RunDir
from tenner.pipeline.stop_when import StopWhen
from tenner.report.facts import LossCurve

EPOCHS, STEPS = 20, 500


def flat(_: float) -> float:
    return 0.12


def settles(t: float) -> float:
    return 0.1 + 0.08 * math.exp(-t / 0.05)


def rises(t: float) -> float:
    return settles(t) + 0.15 * max(0.0, t - 0.3)


def ended_after(condition: str, shape, run_dir: RunDir) -> tuple[int | None, list[Event]]:
    """The epoch at whose end the run was requested to stop."""
    chance, losses, text = random.Random(1), list[float](), list[Event]()
    early = StopWhen(
        condition=condition,
        run_dir=run_dir,
        curve=lambda: LossCurve(steps=range(1, len(losses) + 1), losses=losses),
        emit=text.append,
    )
    for epoch in range(1, EPOCHS + 1):
        for step in range(STEPS):
            t = ((epoch - 1) * STEPS + step) / (EPOCHS * STEPS)
            losses.append(shape(t) * math.exp(chance.gauss(0, 0.2) - 0.02))
        early.handle(EpochEnd(epoch=epoch, num_epochs=EPOCHS, loss_avg=losses[-1]))
        if run_dir.stop_file.exists():
            return epoch, text
    return None, text


@pytest.mark.parametrize(
    ("condition", "shape", "ends"),
    [
        ("never", settles, False),
        ("never", rises, False),
        ("settled", settles, True),
        ("rising", rises, True),
        ("rising", settles, False),
        ("rising", flat, False),
        ("settled", flat, False),
    ],
)
def test_it_ends_what_was_requested_and_reports_it(
    tmp_path: Path, condition: str, shape, ends: bool
) -> None:
    run_dir = RunDir(tmp_path).create()
    epoch, text = ended_after(condition, shape, run_dir)
    assert (epoch is not None) is ends, (epoch, text)
    assert [type(event) for event in text] == [Warned] * ends
    if epoch is not None:
        assert 2 < epoch < EPOCHS
        assert isinstance(text[0], Warned)
        assert f"stop_when = {condition}" in text[0].text
