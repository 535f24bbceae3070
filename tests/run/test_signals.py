"""SIGTERM and SIGINT at every part of a run: saved, brought out in time, 143; a second ends all."""

import json
import signal
import time
from pathlib import Path

import pytest
from program import LONG_RUN, Machine, StandIn

from tenner.runs.remote_run import OWN_FOLDER


def states_at(saved: Path, name: str) -> list[int]:
    marks = (saved / OWN_FOLDER / name / "state").glob("step-*/complete.json")
    return sorted(int(mark.parent.name.split("-")[1]) for mark in marks)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_while_training_the_step_is_saved_and_delivered_within_the_grace_time(
    tmp_path: Path, sent: signal.Signals
) -> None:
    machine, destination = Machine(tmp_path / "pod"), tmp_path / "stored"
    args = ("--max_train_steps", "5000", "--save_every_n_steps", "4000")
    job = machine.train("star", *args, "--destinations", str(destination))
    requests: list[float] = []

    def trains() -> bool:
        requests[:] = [time.monotonic()]
        return len(machine.events("star", "step")) >= 3

    assert machine.cut(job, trains, sent) == 143, machine.output
    assert time.monotonic() - requests[0] < 10, "Docker kills after ten seconds"
    last = machine.events("star", "step")[-1]["step"]
    assert states_at(destination, "star") == [last]
    epoch, rest = divmod(last, 5)
    name = f"step{last:08d}" if rest else f"{epoch:06d}"
    assert (destination / "checkpoints" / f"star-{name}.safetensors").is_file()
    assert machine.ledger("star")["attempts"][-1]["ending"] == "Stopped"
    assert f"stopped by a signal after step {last}" in machine.output


def test_before_the_training_it_ends_at_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    started = time.monotonic()
    code = machine.cut(machine.train("star"), lambda: "dataset" in machine.output, signal.SIGTERM)
    assert code == 143, machine.output
    assert time.monotonic() - started < 10
    assert not (machine.run("star") / "engine.log").exists()


def test_sd_scripts_is_ended_and_its_last_state_taken(tmp_path: Path) -> None:
    machine, destination = StandIn(tmp_path / "pod", STAND_IN_SECONDS="0.05"), tmp_path / "stored"
    args = (*LONG_RUN, "--destinations", str(destination))
    job = machine.train("cat", *args)
    code = machine.cut(job, lambda: bool(machine.events("cat", "state")), signal.SIGTERM)
    assert code == 143, machine.output
    newest = machine.events("cat", "state")[-1]["step"]
    assert states_at(destination, "cat") == [newest]
    machine.environ["STAND_IN_SECONDS"] = "0"
    assert machine.finish(*job) == 0, machine.output
    assert machine.commands("cat")[-1]["resume"].endswith(f"step-{newest:08d}")


def test_what_a_stop_saved_between_two_saves_is_no_part_of_the_delivered_set(
    tmp_path: Path,
) -> None:
    machine, destination = StandIn(tmp_path / "pod", STAND_IN_SECONDS="0.2"), tmp_path / "stored"
    args = (
        "--max_train_steps",
        "40",
        "--save_every_n_steps",
        "10",
        "--destinations",
        str(destination),
    )
    job = machine.train("cat", *args)
    assert machine.cut(job, lambda: num_steps(machine) in range(11, 17), signal.SIGTERM) == 143
    stopped_at = machine.events("cat", "state")[-1]["step"]
    assert stopped_at % 10, "between two saves"
    odd = f"checkpoints/cat-step{stopped_at:08d}.safetensors"
    assert (destination / odd).is_file(), "while it is the newest there is"
    machine.environ["STAND_IN_SECONDS"] = "0"
    assert machine.finish(*job) == 0, machine.output
    listed = {
        each["name"] for each in json.loads((destination / "manifest.json").read_text())["files"]
    }
    planned = {f"checkpoints/cat-step{step:08d}.safetensors" for step in (10, 20, 30)}
    assert {name for name in listed if name.startswith("checkpoints/")} == planned
    assert not (destination / odd).exists()


def num_steps(machine: Machine) -> int:
    return max((event["step"] for event in machine.events("cat", "step")), default=0)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    machine = StandIn(tmp_path, STAND_IN="deaf", STAND_IN_SECONDS="0.05")
    args = ("--max_train_steps", "900", "--save_every_n_steps", "10", "--grace_seconds", "60")
    process = machine.start(*machine.train("cat", *args))
    while process.poll() is None and len(machine.events("cat", "step")) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None, "the trainer has its grace time"
    process.send_signal(signal.SIGTERM)
    requested_at = time.monotonic()
    assert process.wait(30) == 143
    assert time.monotonic() - requested_at < 5


def test_while_delivering_what_arrives_in_time_stays_and_the_next_start_ends_it(
    tmp_path: Path,
) -> None:
    machine = StandIn(tmp_path / "pod")
    destination = tmp_path / "stored"
    args = (
        "--max_train_steps",
        "12",
        "--save_every_n_steps",
        "4",
        "--destinations",
        str(destination),
    )
    job = machine.train("cat", *args)

    def delivers() -> bool:
        return any(each.get("name") == "delivering" for each in machine.events("cat", "phase"))

    # A folder takes the few files at once: either all of it arrived (0), or it was cut (143).
    code = machine.cut(job, delivers, signal.SIGTERM)
    assert code in (0, 143), machine.output
    assert (destination / "manifest.json").is_file() == (code == 0)
    assert machine.finish(*job) == 0, machine.output
    assert (destination / "manifest.json").is_file()
    assert len(machine.commands("cat")) == 1, "nothing is trained twice"
