"""`tenner status` reports a run's state from its directory, while it runs and after any end."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from program import StandIn

STEPS = ("--max_train_steps", "12", "--save_every_n_steps", "4", "--price_per_hour", "0.69")


def status(machine: StandIn, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tenner", "status", str(machine.run("cat")), *args],
        env=machine.environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout


def found(machine: StandIn) -> dict[str, Any]:
    return json.loads(status(machine, "--json"))


def test_it_follows_a_run_through_its_attempts(tmp_path: Path) -> None:
    machine, destination = StandIn(tmp_path / "pod", STAND_IN_SECONDS="0.8"), tmp_path / "stored"
    args = machine.train("cat", *STEPS, "--destinations", f"file://{destination}")
    process = machine.start(*args)
    while process.poll() is None and not machine.events("cat", "state"):
        time.sleep(0.01)
    running = found(machine)
    assert (running["state"], running["phase"]) == ("running", "training")
    assert 4 <= running["step"] < 12
    assert running["seconds_left"] > 0
    process.kill()
    process.wait()
    assert found(machine)["state"] == "cut"

    machine.environ |= {"STAND_IN": "nan", "STAND_IN_SECONDS": "0"}
    assert machine.finish(*args) == 5
    failed = found(machine)
    assert failed["state"] == "failed"
    assert "not finite" in failed["last_problem"] or "not good" in failed["last_problem"]
    del machine.environ["STAND_IN"]

    assert machine.finish(*args) == 0, machine.output
    done = found(machine)
    assert (done["state"], done["step"], len(done["attempts"])) == ("delivered", 12, 3)
    assert done["cost_usd"] > 0
    output = status(machine)
    assert "step       12/12" in output
    assert f"file://{destination}: all of it, verified" in output
    assert "in 3 starts" in output


def test_a_folder_without_a_run_is_reported(tmp_path: Path) -> None:
    args = [sys.executable, "-m", "tenner", "status", str(tmp_path)]
    done = subprocess.run(args, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "not the directory of a run" in done.stderr
