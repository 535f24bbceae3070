"""Attempts of one run, against a model of how the pinned sd-scripts counts under `with_states.py`.

The model is written from its training loop; that the real one does so too is held by
`test_sd_real.py`.
"""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenner.engines.sd_scripts.resume import Attempt, checkpoint_name, keep_states, steps_per_epoch
from tenner.kohya.options import Value


@dataclass
class Trained:
    """What an attempt did: the place in its epoch of each step, and what it saved."""

    places: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    states: dict[str, int] = field(default_factory=dict[str, int])
    final_saved: bool = False


def sd_scripts(options: dict[str, Value], *, spe: int, kill_after: int | None) -> Trained:
    """The loop of `train_network.py`: global_step from 0, epochs from initial_step's, of which the
    first is shortened by the steps that were done of it."""
    done = Trained()
    max_steps = int(str(options["max_train_steps"]))
    num_epochs = math.ceil(max_steps / spe)
    initial = int(str(options.get("initial_step", 0)))
    assert initial == 0 or max_steps > initial
    every_steps = int(str(options.get("save_every_n_steps", 0)))
    every_epochs = int(str(options.get("save_every_n_epochs", 0)))
    global_step = 0
    for epoch in range(initial // spe, num_epochs):
        for index in range(initial % spe if epoch == initial // spe else 0, spe):
            if initial + global_step >= max_steps:
                break
            done.places.append((epoch, index))
            global_step += 1
            if every_steps and (initial + global_step) % every_steps == 0:
                done.states[f"-step{global_step:08d}"] = global_step
            if kill_after is not None and global_step >= kill_after:
                return done
        if every_epochs and (epoch + 1) % every_epochs == 0 and epoch + 1 < num_epochs:
            done.states[f"-{epoch + 1:06d}"] = global_step
    done.final_saved = True
    return done


@given(
    spe=st.integers(1, 30),
    num_steps=st.integers(1, 120),
    every=st.integers(1, 40),
    by_epoch=st.booleans(),
    kills=st.lists(st.integers(1, 60), max_size=4),
)
@example(spe=10, num_steps=13, every=4, by_epoch=False, kills=[6, 5])
@example(spe=10, num_steps=30, every=1, by_epoch=True, kills=[12, 15])
@example(spe=10, num_steps=25, every=1, by_epoch=True, kills=[12, 3])
def test_any_number_of_attempts_is_one_run(
    spe: int, num_steps: int, every: int, by_epoch: bool, kills: list[int]
) -> None:
    saving: dict[str, Value] = {"save_every_n_epochs" if by_epoch else "save_every_n_steps": every}
    first_step, state, names = 0, None, set[str]()
    saved: list[tuple[int, int]] = []
    for kill in [*kills, None]:
        attempt = Attempt(first_step=first_step, num_steps=num_steps, steps_per_epoch=spe)
        options = {**saving, **attempt.options(state=state)}
        lived = sd_scripts(options, spe=spe, kill_after=kill)
        assert first_step + len(lived.places) <= num_steps
        reached = first_step
        for ending, shown in lived.states.items():
            number = ending.removeprefix("-")
            step = (
                attempt.absolute_step(int(number.removeprefix("step")))
                if number.startswith("step")
                else attempt.step_at_epoch_end(int(number))
            )
            assert step == first_step + shown
            if step < num_steps:
                name = checkpoint_name("lora", step=step, attempt=attempt, by_epoch=by_epoch)
                assert name not in names
                names.add(name)
                reached = step
        if lived.final_saved:
            assert first_step + len(lived.places) == num_steps
            saved += lived.places
            break
        saved += lived.places[: reached - first_step]
        first_step, state = reached, "/state" if reached else None
    assert saved == [divmod(step, spe) for step in range(num_steps)]


def test_an_attempt_is_given_the_whole_run_and_where_it_resumes() -> None:
    attempt = Attempt(first_step=25, num_steps=30, steps_per_epoch=10)
    assert attempt.options(state="/s") == {
        "max_train_steps": 30,
        "initial_step": 25,
        "resume": "/s",
    }
    assert Attempt(num_steps=30, steps_per_epoch=10).options(state=None) == {"max_train_steps": 30}
    assert attempt.step_at_epoch_end(2) == 20
    assert Attempt(num_steps=25, steps_per_epoch=10).step_at_epoch_end(3) == 25


@pytest.mark.parametrize(
    ("buckets", "batch", "accumulation", "processes", "expected"),
    [
        ([200], 2, 1, 1, 100),
        ([5, 5, 3], 4, 1, 1, 5),
        ([5, 5, 3], 4, 2, 1, 3),
        ([5, 5, 3], 4, 1, 2, 3),
        ([1], 8, 4, 4, 1),
    ],
)
def test_steps_of_an_epoch(
    buckets: list[int], batch: int, accumulation: int, processes: int, expected: int
) -> None:
    found = steps_per_epoch(
        buckets,
        batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_processes=processes,
    )
    assert found == expected


def test_two_states_are_kept() -> None:
    assert keep_states({"save_every_n_epochs": 2}) == {
        "save_state": True,
        "save_last_n_epochs_state": 2,
    }
    assert keep_states({"save_every_n_steps": 50})["save_last_n_steps_state"] == 50
