"""A run of each trouble, killed at random points; `bench/chaos.py` does it for long, with real
weights."""

import os

import pytest

from bench.chaos import chaos


@pytest.mark.long
def test_runs_that_are_killed_anywhere_end_delivered_and_whole() -> None:
    seed = int(os.environ.get("CHAOS_SEED", "7"))
    stories = chaos(10, 1, seed, stand_in=True)
    assert [history.wrong for history in stories] == [[]] * 10, f"CHAOS_SEED={seed}"
    assert sum(len(history.lives) for history in stories) > 10
