"""The ledger accounts for every step: the steps of its attempts add up to the run."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import StandIn

from tenner.runs.ledger import AttemptRecord, Finished, Ledger, SavedFile, read_ledger

WORDS = ("--max_train_steps", "20", "--save_every_n_steps", "3")


def rows(machine: StandIn) -> list[tuple[int, int]]:
    return [
        (attempt["first_step"], attempt["last_step"])
        for attempt in machine.ledger("cat")["attempts"]
    ]


def test_a_killed_attempt_ends_at_its_newest_state(tmp_path: Path) -> None:
    machine = StandIn(tmp_path, STAND_IN="crashed", STAND_IN_STEPS="8")
    assert machine.finish(*machine.train("cat", *WORDS)) == 5, machine.output
    assert rows(machine) == [(0, 6)], "eight steps were trained, and six of them are saved"
    machine.environ["STAND_IN_SECONDS"] = "0.05"
    machine.environ["STAND_IN"] = "success"

    def has_saved_twice() -> bool:
        return [each["step"] for each in machine.events("cat", "state")][-1:] == [12]

    assert machine.cut(machine.train("cat", *WORDS), has_saved_twice) == -9, machine.output
    assert machine.finish(*machine.train("cat", *WORDS)) == 0, machine.output
    first, second, third = rows(machine)
    assert first == (0, 6)
    assert second[0] == 6
    assert second[1] >= 12
    assert third == (second[1], 20)
    # One more start has nothing to do, and adds nothing.
    assert machine.finish(*machine.train("cat", *WORDS)) == 0, machine.output
    assert sum(last - start for start, last in rows(machine)) == 20


def test_a_state_that_is_lost_takes_its_steps_from_the_attempt_that_trained_them(
    tmp_path: Path,
) -> None:
    machine = StandIn(tmp_path, STAND_IN="crashed", STAND_IN_STEPS="10")
    assert machine.finish(*machine.train("cat", *WORDS)) == 5, machine.output
    assert rows(machine) == [(0, 9)]
    (machine.run("cat") / "state" / "step-00000009" / "optimizer.bin").write_bytes(b"cut")
    machine.environ["STAND_IN"] = "success"
    assert machine.finish(*machine.train("cat", *WORDS)) == 0, machine.output
    assert rows(machine) == [(0, 6), (6, 20)]


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(1, 30), max_size=4)), max_size=6))
def test_whatever_is_lost_the_attempts_add_up_to_the_run(
    attempts: list[tuple[bool, list[int]]],
) -> None:
    """An attempt resumes from any state that was saved until then, saves some, and may be noted by
    its states or not at all (a kill before the note)."""
    ledger, saved = Ledger(output_name="x"), {0}
    for is_noted, steps in [*attempts, (True, [])]:
        start = max(step for step in saved)
        attempt = AttemptRecord(started="", first_step=start, last_step=start)
        ledger = ledger.resumed_from(start).with_attempt(attempt).resumed_from(start)
        for step in sorted(start + each for each in steps):
            saved.add(step)
            ledger = ledger.with_state(step) if is_noted else ledger
        if len(saved) > 1 and len(steps) == 3:
            saved.discard(max(saved))  # found broken later
    end = max(saved) + 10
    file = SavedFile(name="x", step=end, epoch=1, size=1, sha256="")
    ledger = ledger.resumed_from(max(saved)).ended_with(Finished(file=file, seconds=1))
    assert sum(each.last_step - each.first_step for each in ledger.attempts) == end
    assert all(attempt.first_step <= attempt.last_step for attempt in ledger.attempts)


@pytest.mark.parametrize("attempts", [(), (AttemptRecord(started="2026-11-29", last_step=7),)])
def test_ledgers_of_earlier_versions_are_read(attempts: tuple[AttemptRecord, ...]) -> None:
    ledger = Ledger(output_name="x", attempts=attempts)
    assert read_ledger(ledger.to_json()) == ledger
    earlier = ledger.to_json().replace('"attempts":', '"lives":')
    assert earlier != ledger.to_json()
    assert read_ledger(earlier) == ledger
