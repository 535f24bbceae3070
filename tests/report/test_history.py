"""The loss curve from a run's events."""

from tenner.events import EpochEnd, Phase, Step
from tenner.report.history import loss_curve


def step(number: int, loss: float) -> Step:
    return Step(
        step=number,
        num_steps=4,
        epoch=1,
        num_epochs=2,
        loss=loss,
        loss_avg=loss,
        lr={"unet": number / 10},
    )


def test_steps_done_twice_count_as_the_later_life_did_them() -> None:
    curve = loss_curve(
        [
            step(1, 0.5),
            step(2, 0.4),
            EpochEnd(epoch=1, num_epochs=2, loss_avg=0.45),
            step(3, 9.0),
            Phase(name="resuming"),
            step(3, 0.3),
            step(4, 0.2),
            EpochEnd(epoch=2, num_epochs=2, loss_avg=0.25),
        ]
    )
    assert curve.steps == [1, 2, 3, 4]
    assert curve.losses == [0.5, 0.4, 0.3, 0.2]
    assert curve.learning_rates == {"unet": [0.1, 0.2, 0.3, 0.4]}
    assert curve.epoch_ends == [2, 4]


def test_no_events_make_an_empty_curve() -> None:
    assert loss_curve([]).steps == []
