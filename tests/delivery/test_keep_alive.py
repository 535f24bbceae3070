"""A machine whose disk goes with it stays and delivers again, until it works or the time is up."""

import time

import pytest

from tenner.core.errors import DeliveryError
from tenner.core.events import Event, Warned
from tenner.runs.deliver import Delivered
from tenner.runs.handover import deliver_persistently
from tenner.storage.manifest import Manifest

DELIVERED = Delivered(at=(), manifest=Manifest(files=()))


class Failing:
    """Fails so many times, and then delivers."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.tried = 0

    def __call__(self) -> Delivered:
        self.tried += 1
        if self.tried <= self.left:
            raise DeliveryError("the bucket is away", fix="bring it back")
        return DELIVERED


def test_it_delivers_once_the_other_side_is_back() -> None:
    events: list[Event] = []
    failing = Failing(2)
    found = deliver_persistently(
        failing, minutes=1, stopped=lambda: False, on_event=events.append, pause_seconds=0.01
    )
    assert found is DELIVERED
    assert failing.tried == 3
    reported = [event for event in events if isinstance(event, Warned)]
    assert len(reported) == 2
    assert "the bucket is away" in reported[0].text
    assert "more minutes" in reported[0].text


def test_without_minutes_it_is_tried_once() -> None:
    failing = Failing(9)
    with pytest.raises(DeliveryError):
        deliver_persistently(failing, minutes=0, stopped=lambda: False, on_event=print)
    assert failing.tried == 1


def test_it_ends_when_the_time_is_up_or_a_signal_comes() -> None:
    failing = Failing(10**6)
    start = time.monotonic()
    with pytest.raises(DeliveryError, match="away"):
        deliver_persistently(
            failing,
            minutes=0.5 / 60,
            stopped=lambda: False,
            on_event=lambda event: None,
            pause_seconds=0.1,
        )
    assert 0.4 < time.monotonic() - start < 5
    assert failing.tried > 2
    stops = iter([False, False, *[True] * 100])
    with pytest.raises(DeliveryError):
        deliver_persistently(
            Failing(10**6), minutes=10, stopped=lambda: next(stops), on_event=lambda event: None
        )
