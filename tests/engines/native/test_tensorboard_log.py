"""TensorBoard's log of a training, read back by TensorBoard itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tenner.core.events import EpochEnd, Step, Warned
from tenner.engines.native import engine
from tenner.engines.native.tensorboard_log import TensorBoard

SCALARS = ("loss/current", "loss/average", "loss/epoch_average")


def step(number: int, loss: float) -> Step:
    return Step(
        step=number, num_steps=9, epoch=1, num_epochs=1, loss=loss, loss_avg=loss, lr={"unet": 1e-4}
    )


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    log = EventAccumulator(str(folder))
    log.Reload()
    names = log.Tags()["scalars"]
    return {name: [(each.step, each.value) for each in log.Scalars(name)] for name in names}


@pytest.mark.long
def test_a_run_is_logged_and_without_tensorboard_it_warns(tmp_path: Path) -> None:
    job = tiny_model.make_job(
        tiny_model.make_base(tmp_path / "base"),
        tmp_path / "out",
        tiny_model.make_items(tmp_path / "data"),
        max_train_steps=3,
        log_dir=str(tmp_path / "logs"),
    )
    hidden = tmp_path / "hidden" / "tensorboard"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('not here')")
    Path(job.output_dir).mkdir()
    path = tmp_path / "job.json"
    path.write_text(job.to_json())
    command = engine.command(path, Path(sys.executable))
    for first in ("", str(hidden.parent)):
        found = os.pathsep.join(filter(None, (first, command.env["PYTHONPATH"])))
        done = subprocess.run(
            command.argv,
            env={**os.environ, **command.env, "PYTHONPATH": found},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        warned = [each for each in map(engine.read, done.stdout.splitlines()) if
                  isinstance(each, Warned)]  # fmt: skip
        assert bool(warned) is bool(first), warned
    logged = read(tmp_path / "logs")
    assert [number for number, _ in logged["loss/current"]] == [1, 2, 3]
    assert {"lr/unet", *SCALARS} <= logged.keys()


def test_steps_of_a_resumed_run_replace_those_of_the_earlier_attempt(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path, first_step=1)
    for number in range(1, 7):
        first.handle(step(number, 1.0))
    first.close()
    second = TensorBoard(tmp_path, first_step=4)
    second.handle(step(4, 2.0))
    second.handle(step(5, float("nan")))
    second.handle(EpochEnd(epoch=1, num_epochs=1, loss_avg=0.5))
    second.close()
    logged = read(tmp_path)
    assert logged["loss/current"] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]
    assert logged["loss/epoch_average"] == [(1, pytest.approx(0.5))]
