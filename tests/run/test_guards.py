"""What the guards of a running engine request, by the clock and by events."""

import pytest

from tenner.core.events import Failed, Step, Warned
from tenner.supervision.budget import Budget, BudgetGuard, delivery_seconds
from tenner.supervision.card_watch import CardWatch, Reading, parse_reading
from tenner.supervision.guards import SlowGuard


def step(number: int) -> Step:
    return Step(step=number, num_steps=900, epoch=1, num_epochs=1, loss=0.1, loss_avg=0.1)


def test_a_budget_warns_once_at_80_percent_and_asks_for_the_end_while_delivery_still_fits() -> None:
    clock = [0.0]
    guard = BudgetGuard(
        budget=Budget(max_cost_usd=1.0, max_hours=None, price_per_hour=1.0, spent_usd=0.5),
        started=0.0,
        reserve=lambda: 100.0,
        now=lambda: clock[0],
    )
    assert guard.budget.seconds == 1800
    clock[0] = 1000
    assert guard.check() is None
    clock[0] = 1440
    found = guard.check()
    assert found is not None
    assert isinstance(found.event, Warned)
    assert "80 % of the budget is used ($0.90 of $1.00)" in found.event.text
    assert found.end == "no"
    clock[0] = 1699
    assert guard.check() is None, "it is reported once"
    clock[0] = 1700
    found = guard.check()
    assert found is not None
    assert (found.end, found.reason) == ("save", "budget")


@pytest.mark.parametrize(
    ("price", "hours", "seconds"),
    [(None, None, None), (None, 2.0, 7200), (0.5, 2.0, 7200), (10.0, 2.0, 3600), (0.0, None, None)],
)
def test_the_nearer_limit_counts_and_dollars_only_where_the_price_is_known(
    price: float | None, hours: float | None, seconds: float | None
) -> None:
    budget = Budget(max_cost_usd=10.0, max_hours=hours, price_per_hour=price)
    assert budget.seconds == seconds


def test_delivery_is_given_twice_the_time_at_the_measured_speed() -> None:
    assert delivery_seconds(100_000_000, 10e6) == 10 + 20
    assert delivery_seconds(100_000_000, None) == 10 + 40


def test_steps_that_slow_down_are_reported_once_with_the_numbers() -> None:
    clock = [0.0]
    guard = SlowGuard(now=lambda: clock[0])
    reported: list[str] = []
    for number in range(200):
        clock[0] += 0.5 if number < 100 else 1.5
        found = guard.handle(step(number))
        if found and isinstance(found.event, Warned):
            reported.append(found.event.text)
    assert reported == ["a step takes 1.50 s now, and took 0.50 s before"]


@pytest.mark.parametrize(
    ("text", "code", "reading"),
    [
        ("97, Not Active, 71\n", 0, Reading(utilization_percent=97, celsius=71)),
        ("3, Active, 91\n", 0, Reading(utilization_percent=3, is_throttled=True, celsius=91)),
        ("[N/A], [N/A], [N/A]\n", 0, Reading()),
        ('Field "clocks" is not a valid field to query.\n', 2, Reading()),
        ("Failed to initialize NVML: Unknown Error\n", 255, Reading(trouble="Failed to initialize"
         " NVML: Unknown Error")),
        ("No devices were found\n", 0, Reading(trouble="No devices were found")),
        ("", 9, Reading(trouble="nvidia-smi ended with code 9")),
    ],
)  # fmt: skip
def test_readings_of_nvidia_smi_are_parsed(text: str, code: int, reading: Reading) -> None:
    assert parse_reading(text, code) == reading


def verdicts(checks: list[Reading], *, steps: bool = True) -> list[object]:
    """The verdicts of a watch on these readings, one after the other."""
    watch = CardWatch(read=Reading)
    found: list[object] = []
    for number, check in enumerate(checks):
        watch.take(check)
        watch.handle(step(number) if steps else None)
        if verdict := watch.check():
            found.append(verdict.event)
    return found


def test_a_card_that_is_gone_is_reported_from_one_that_was_busy_for_a_moment() -> None:
    gone, good = Reading(trouble="Failed to initialize NVML"), Reading(utilization_percent=99)
    assert verdicts([gone, gone, good, gone, gone, good]) == []
    [failed] = verdicts([good, gone, gone, gone])
    assert isinstance(failed, Failed)
    assert failed.kind == "host"


def test_an_idle_or_throttled_card_is_reported_while_steps_are_made() -> None:
    idle = [Reading(utilization_percent=4)] * 12
    [warned] = verdicts(idle)
    assert isinstance(warned, Warned)
    assert "busy only 4 % of the time" in warned.text
    assert verdicts(idle, steps=False) == [], "loading needs no card"
    [hot] = verdicts([Reading(utilization_percent=99, is_throttled=True, celsius=91)] * 12)
    assert isinstance(hot, Warned)
    assert "at 91 °C" in hot.text
