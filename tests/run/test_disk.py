"""A disk that is too small is found before the training, and one that fills is made room on."""

import json
from pathlib import Path

from program import StandIn

from tenner.disk import DiskGuard
from tenner.events import StateSaved, Warned
from tenner.run_dir import RunDir


def test_a_run_that_will_not_fit_is_refused_with_the_sizes(tmp_path: Path) -> None:
    machine = StandIn(tmp_path)
    words = ("--network_dim", "128", "--max_train_steps", "1000000", "--save_every_n_steps", "1")
    assert machine.finish(*machine.train("cat", *words)) == 4, machine.said
    assert "1000000 checkpoints of 151 MB" in machine.said
    assert "GB free" in machine.said
    assert not (machine.run("cat") / "engine.log").exists()


def state(place: RunDir, step: int) -> StateSaved:
    folder = place.state / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "optimizer.bin").write_bytes(bytes(1000))
    (folder / "state.json").write_text(json.dumps({"step": step}))
    return StateSaved(path=str(folder), step=step, epoch=1)


def test_older_states_make_room_before_the_next_save_and_it_is_said_once(tmp_path: Path) -> None:
    place = RunDir(tmp_path).create()
    free = [10_000]
    guard = DiskGuard(place=place, free_bytes=lambda: free[0])
    for step in (4, 8):
        guard.heard(state(place, step))
        assert guard.look() is None
    free[0] = 1500
    guard.heard(state(place, 12))
    found = guard.look()
    assert found is not None
    assert isinstance(found.event, Warned)
    assert "2 older states are dropped" in found.event.text
    assert [each.name for each in place.state.iterdir()] == ["step-00000012"]
    guard.heard(state(place, 16))
    assert guard.look() is None
    assert [each.name for each in place.state.iterdir()] == ["step-00000016"], "the newest stays"
