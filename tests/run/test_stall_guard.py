"""An engine that hangs is ended and named; one that is only slow is left alone."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tenner.core.command import Command
from tenner.core.events import Failed, Step, parse_event
from tenner.supervision.guards import BEFORE_FIRST_STEP_SECONDS, LEAST_SECONDS, StallGuard
from tenner.supervision.supervise import Control, StopRequest, follow

STEP = Step(step=1, num_steps=9, epoch=1, num_epochs=1, loss=0.1, loss_avg=0.1)


@pytest.mark.parametrize(
    ("seconds_per_step", "limit"),
    [(None, BEFORE_FIRST_STEP_SECONDS), (0.5, LEAST_SECONDS), (60.0, 3000.0)],
)
def test_the_limit_comes_from_the_runs_own_steps(
    seconds_per_step: float | None, limit: float
) -> None:
    clock = [0.0]
    guard = StallGuard(now=lambda: clock[0])
    assert guard.check() is None
    for _ in range(5 if seconds_per_step else 0):
        clock[0] += seconds_per_step or 0.0
        guard.handle(STEP)
    clock[0] += limit - 1
    assert guard.check() is None
    clock[0] += 2
    found = guard.check()
    assert found is not None
    assert found.end == "now"
    assert isinstance(found.event, Failed)
    assert found.event.kind == "host"
    guard.handle(None)
    assert guard.check() is None, "any line resets the clock"


def test_a_program_that_prints_five_lines_and_hangs_is_ended(tmp_path: Path) -> None:
    started = time.monotonic()
    ending = follow(
        Command(
            argv=(
                sys.executable,
                "-u",
                "-c",
                "import time\nfor each in range(5): print(each)\ntime.sleep(60)",
            )
        ),
        read=parse_event,
        on_event=lambda _: None,
        log=tmp_path / "engine.log",
        control=Control(environ=dict(os.environ), stop=StopRequest(), grace_seconds=5.0),
        guards=[StallGuard(now=lambda: time.monotonic() * 2000)],  # an hour in 1.8 s
    )
    assert time.monotonic() - started < 30
    assert ending.returncode == -signal.SIGKILL
    assert ending.last_lines == ("0", "1", "2", "3", "4")
    assert ending.failed is not None
    assert "hangs" in ending.failed.text
