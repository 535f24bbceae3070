"""Runs of the first troubles, each killed at a random point.

`python -m bench.chaos` does it for all troubles and many more runs, with real weights. (Each of the
other troubles has tests of its own.)
"""

import os

import pytest

from bench.chaos import chaos

NUM_RUNS = 4


@pytest.mark.long
@pytest.mark.timeout(900)
def test_runs_that_are_killed_anywhere_end_delivered_and_whole() -> None:
    seed = int(os.environ.get("CHAOS_SEED", "7"))
    histories = chaos(NUM_RUNS, 1, seed, stand_in=True)
    assert [history.wrong for history in histories] == [[]] * NUM_RUNS, f"CHAOS_SEED={seed}"
    assert sum(len(history.attempts) for history in histories) > NUM_RUNS
