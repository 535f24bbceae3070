"""Lives of one run, against a model of how the pinned sd-scripts counts.

The model is written from its training loop and agrees with real runs of it: 13 steps in three
lives (killed after steps 6 and 9), and the last ten of 30 after two whole epochs.
"""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tenner.engines.sd_scripts.facts import Value
from tenner.engines.sd_scripts.resume import Life, checkpoint_name, keep_states, steps_per_epoch
from tenner.engines.sd_scripts.schedules import Schedule

SCHEDULE = {"name": "cosine_with_restarts", "warmup_steps": 3, "num_cycles": 2}


@dataclass
class Trained:
    """What a life did: for each step its learning-rate factor, and what it saved."""

    factors: list[float] = field(default_factory=list[float])
    states: dict[str, int] = field(default_factory=dict[str, int])
    final_saved: bool = False


def sd_scripts(
    options: dict[str, Value], *, spe: int, scheduler_count: int, kill_after: int | None
) -> Trained:
    """The loop of `train_network.py`: global_step from 0, epochs from initial_step's."""
    done = Trained()
    max_steps = int(str(options["max_train_steps"]))
    num_epochs = math.ceil(max_steps / spe)
    initial = int(str(options.get("initial_step", 0)))
    assert initial == 0 or max_steps > initial
    every_steps = int(str(options.get("save_every_n_steps", 0)))
    every_epochs = int(str(options.get("save_every_n_epochs", 0)))
    global_step = 0
    for epoch in range(initial // spe, num_epochs):
        for _ in range(spe):
            done.factors.append(_factor(options, scheduler_count + global_step, max_steps))
            global_step += 1
            if every_steps and global_step % every_steps == 0:
                done.states[f"-step{global_step:08d}"] = global_step
            if kill_after is not None and global_step >= kill_after:
                return done
            if global_step >= max_steps:
                break
        if every_epochs and (epoch + 1) % every_epochs == 0 and epoch + 1 < num_epochs:
            done.states[f"-{epoch + 1:06d}"] = global_step
    done.final_saved = True
    return done


def _factor(options: dict[str, Value], count: int, max_steps: int) -> float:
    if options.get("lr_scheduler") != "piecewise_constant":
        return Schedule(num_steps=max_steps, **SCHEDULE).factor(count)  # pyright: ignore
    [argument] = options["lr_scheduler_args"]  # pyright: ignore
    *written, last = str(argument).removeprefix("step_rules='").removesuffix("'").split(",")
    found = {int(until): float(factor) for factor, until in (each.split(":") for each in written)}
    return next((found[until] for until in sorted(found) if count < until), float(last))


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
def test_any_number_of_lives_is_one_run(
    spe: int, num_steps: int, every: int, by_epoch: bool, kills: list[int]
) -> None:
    saving: dict[str, Value] = {"save_every_n_epochs" if by_epoch else "save_every_n_steps": every}
    whole = Schedule(num_steps=num_steps, **SCHEDULE)  # pyright: ignore
    first_step, state, names = 0, None, set[str]()
    kept_factors: list[float] = []
    for kill in [*kills, None]:
        life = Life(first_step=first_step, num_steps=num_steps, steps_per_epoch=spe)
        options = {**saving, **life.options(whole, state=state)}
        lived = sd_scripts(options, spe=spe, scheduler_count=first_step, kill_after=kill)
        for step, factor in enumerate(lived.factors, start=first_step):
            assert factor == pytest.approx(whole.factor(step), abs=1e-8)
        assert first_step + len(lived.factors) <= num_steps
        reached = first_step
        for ending, shown in lived.states.items():
            number = ending.removeprefix("-")
            step = (
                life.absolute_step(int(number.removeprefix("step")))
                if number.startswith("step")
                else life.step_at_epoch_end(int(number))
            )
            assert step == first_step + shown
            if step < num_steps:
                name = checkpoint_name("lora", step=step, life=life, by_epoch=by_epoch)
                assert name not in names
                names.add(name)
                reached = step
        if lived.final_saved:
            assert first_step + len(lived.factors) == num_steps
            kept_factors += lived.factors
            break
        kept_factors += lived.factors[: reached - first_step]
        first_step, state = reached, "/state" if reached else None
    assert len(kept_factors) == num_steps


@given(spe=st.integers(1, 30), num_steps=st.integers(2, 120), first=st.integers(1, 119))
def test_without_its_state_a_life_still_follows_the_curve(
    spe: int, num_steps: int, first: int
) -> None:
    assume(first < num_steps)
    whole = Schedule(num_steps=num_steps, **SCHEDULE)  # pyright: ignore
    life = Life(first_step=first, num_steps=num_steps, steps_per_epoch=spe)
    options = life.options(whole, state=None)
    assert "resume" not in options
    lived = sd_scripts(options, spe=spe, scheduler_count=0, kill_after=None)
    assert len(lived.factors) == num_steps - first
    for step, factor in enumerate(lived.factors, start=first):
        assert factor == pytest.approx(whole.factor(step), abs=1e-8)


def test_whole_epochs_keep_sd_scripts_own_numbers_and_schedule() -> None:
    life = Life(first_step=20, num_steps=30, steps_per_epoch=10)
    options = life.options(Schedule(name="cosine", num_steps=30), state="/s")
    assert options == {"max_train_steps": 30, "initial_step": 20, "resume": "/s"}
    assert life.step_at_epoch_end(3) == 30


def test_the_rest_of_an_unknown_curve_is_left_to_its_own_state() -> None:
    life = Life(first_step=5, num_steps=30, steps_per_epoch=10)
    assert life.options(None, state="/s") == {
        "max_train_steps": 25,
        "initial_step": 0,
        "resume": "/s",
    }


@pytest.mark.parametrize(
    ("buckets", "batch", "accumulation", "processes", "wanted"),
    [
        ([200], 2, 1, 1, 100),
        ([5, 5, 3], 4, 1, 1, 5),
        ([5, 5, 3], 4, 2, 1, 3),
        ([5, 5, 3], 4, 1, 2, 3),
        ([1], 8, 4, 4, 1),
    ],
)
def test_steps_of_an_epoch(
    buckets: list[int], batch: int, accumulation: int, processes: int, wanted: int
) -> None:
    found = steps_per_epoch(
        buckets,
        batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_processes=processes,
    )
    assert found == wanted


def test_two_states_are_kept() -> None:
    assert keep_states({"save_every_n_epochs": 2}) == {
        "save_state": True,
        "save_last_n_epochs_state": 2,
    }
    assert keep_states({"save_every_n_steps": 50})["save_last_n_steps_state"] == 50
