"""A disk that is too small is found before the training, and older states are removed from one that
fills."""

import json
import os
import shutil
from pathlib import Path

import pytest
from program import StandIn, sparse_base

from tenner.base.inspection import inspect_base
from tenner.base.model import Base
from tenner.core.errors import Problem
from tenner.core.events import StateSaved, Warned
from tenner.core.run_dir import RunDir
from tenner.hardware import DiskSpace
from tenner.planning.plan import Plan, RunFacts, Shape, plan_run
from tenner.runs.disk import OTHER_DELIVERED_BYTES, DiskGuard, disk_need, full_destinations
from tenner.settings import Settings
from tenner.storage.destination_address import parse_destination


@pytest.mark.parametrize("command", ["train", "plan"])
def test_a_run_that_will_not_fit_is_refused_with_the_sizes(tmp_path: Path, command: str) -> None:
    machine = StandIn(tmp_path)
    args = ("--network_dim", "128", "--max_train_steps", "1000000", "--save_every_n_steps", "1")
    line = (command, *machine.train("cat", *args)[1:])
    assert machine.finish(*line) == 4, machine.output
    assert "1000000 checkpoints of 151.0 MB" in machine.output
    assert "GB free" in machine.output or "TB free" in machine.output
    assert not (machine.run("cat") / "engine.log").exists()


def plan_with(base: Base, *, num_steps: int, every: int) -> Plan:
    requested = {"max_train_steps": num_steps, "save_every_n_steps": every, "output_name": "cat"}
    shape = Shape(
        batch_size=1,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
        mixed_precision="fp16",
        attention="sdpa",
        num_workers=1,
    )
    return plan_run(
        Settings.model_validate(requested),
        RunFacts(
            engine="sd-scripts",
            base=base,
            device="cuda",
            gpu="NVIDIA GeForce RTX 4090",
            resolution=(512, 512),
            batches_per_epoch=20,
        ),
        shape,
        optimizer_type="AdamW",
    )


def other_disk(tmp_path: Path) -> Path:
    """A folder that is not on the disk of the test's own."""
    here = tmp_path.stat().st_dev
    found = [each for each in map(Path, ("/dev/shm", "/run", "/var/tmp")) if each.is_dir()]
    return next(each for each in found if each.stat().st_dev != here and os.access(each, os.W_OK))


@pytest.mark.parametrize("command", ["train", "plan"])
def test_a_folder_on_another_disk_that_will_not_hold_the_set_is_reported_before_the_training(
    tmp_path: Path, command: str
) -> None:
    machine = StandIn(tmp_path)
    target = other_disk(tmp_path) / f"tenner-{tmp_path.name}"
    args = ("--network_dim", "128", "--max_train_steps", "1000000", "--save_every_n_steps", "1")
    line = (command, *machine.train("cat", *args)[1:])
    assert machine.finish(*line, "--destinations", f"file://{target}") == 2, machine.output
    assert f"file://{target} has " in machine.output
    assert "this run writes about 151.0 TB" in machine.output
    assert "keep_remote_states = 0" in machine.output
    assert not target.exists()


def test_the_plan_shows_how_much_disk_a_run_takes(tmp_path: Path) -> None:
    machine = StandIn(tmp_path)
    line = ("plan", *machine.train("cat", "--network_dim", "128")[1:])
    assert machine.finish(*line) == 0, machine.output
    assert "checkpoints of 151.0 MB, states of " in machine.output


def test_what_lies_there_already_counts_and_an_optional_folder_is_a_warning(
    tmp_path: Path,
) -> None:
    run_dir = RunDir(tmp_path / "output" / "cat").create()
    target = other_disk(tmp_path) / f"tenner-{tmp_path.name}"
    plan = plan_with(
        inspect_base(sparse_base(tmp_path / "b.safetensors"), name="b"), num_steps=20, every=10
    )
    need = disk_need(plan, num_remote_states=1)
    assert need.delivered == 3 * need.checkpoint + 2 * need.state + OTHER_DELIVERED_BYTES

    def found(options: str, free_bytes: int) -> tuple[Problem, ...]:
        free = DiskSpace(path=target, free_mib=free_bytes >> 20, total_mib=10**6, is_writable=True)
        to = (parse_destination(f"file://{target}{options}"),)
        return full_destinations(plan, run_dir, to, num_remote_states=1, space_of=lambda path: free)

    try:
        assert found("", need.delivered + (1 << 20)) == ()
        (problem,) = found("?optional", need.delivered - (1 << 20))
        assert problem.level == "warning"
        earlier = target / "checkpoints" / "cat-000001.safetensors"
        earlier.parent.mkdir(parents=True)
        earlier.write_bytes(bytes(2 << 20))
        assert found("", need.delivered - (1 << 20)) == ()
    finally:
        shutil.rmtree(target, ignore_errors=True)


def state(run_dir: RunDir, step: int) -> StateSaved:
    folder = run_dir.state / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "optimizer.bin").write_bytes(bytes(1000))
    (folder / "state.json").write_text(json.dumps({"step": step}))
    return StateSaved(path=str(folder), step=step, epoch=1)


def test_older_states_are_removed_before_the_next_save_and_it_is_reported_once(
    tmp_path: Path,
) -> None:
    run_dir = RunDir(tmp_path).create()
    free = [10_000]
    guard = DiskGuard(run_dir=run_dir, free_bytes=lambda: free[0])
    for step in (4, 8):
        guard.handle(state(run_dir, step))
        assert guard.check() is None
    free[0] = 1500
    guard.handle(state(run_dir, 12))
    found = guard.check()
    assert found is not None
    assert isinstance(found.event, Warned)
    assert "2 older states are removed" in found.event.text
    assert [each.name for each in run_dir.state.iterdir()] == ["step-00000012"]
    guard.handle(state(run_dir, 16))
    assert guard.check() is None
    assert [each.name for each in run_dir.state.iterdir()] == ["step-00000016"], "the newest stays"
