"""Several processes of one run, as on several cards: the same weights, and one that saves."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model
import torch
from running import assert_same, of_kind, start, train
from safetensors.torch import load_file

from tenner.core.events import (
    Checkpoint,
    Done,
    StateSaved,
    Step,
)
from tenner.core.train_job import TrainJob
from tenner.engines.native import engine

pytestmark = pytest.mark.timeout(240)


@pytest.mark.long
@pytest.mark.parametrize("processes", [2])
def test_several_processes_train_what_one_trains(
    base, items, tmp_path: Path, processes: int
) -> None:
    alone = tiny_model.make_job(
        base, tmp_path / "one", items, train_batch_size=2, learning_rate=1e-3
    )
    train(alone)
    shared = tiny_model.make_job(
        base, tmp_path / "two", items, train_batch_size=1, learning_rate=1e-3
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        start(
            shared,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            ACCELERATE_USE_CPU="true",
        )
        for rank in range(processes)
    ]
    outs = [process.communicate(timeout=200)[0] for process in ranks]
    output = (tmp_path / "two" / "stderr").read_text()
    assert [process.returncode for process in ranks] == [0, 0], output[-3000:]
    assert not outs[1]
    one = load_file(tmp_path / "one" / "lora.safetensors")
    two = load_file(tmp_path / "two" / "lora.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


SAVES_ON_EACH = """
import os, sys
from tenner.engines.native import loop, train
from tenner.engines.native.lora_file import lora_tensors, write_lora
own = loop.Trainer.save_weights
def save_weights(self, name="", *, final=False):
    path = self.final_path().with_name(f"rank-{os.environ['RANK']}-{name}.safetensors")
    write_lora(path, lora_tensors(self._network.bank, "float"), {})
    own(self, name, final=final)
loop.Trainer.save_weights = save_weights
sys.exit(train.main(sys.argv[1:]))
"""


def launch(job: TrainJob, script: Path | None = None) -> subprocess.Popen[str]:
    """Two processes by accelerate, as on two cards."""
    location = Path(job.output_dir)
    location.mkdir(parents=True, exist_ok=True)
    (location / "job.json").write_text(job.to_json())
    command = engine.command(location / "job.json", Path(sys.executable), num_processes=2)
    argv = list(command.argv)
    if script:
        at = argv.index(engine.MODULE)
        argv[at - 1 : at + 1] = [str(script)]
    with (location / "stderr").open("w") as output:
        return subprocess.Popen(
            argv,
            env={**os.environ, **command.env},
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
        )


def test_launched_processes_hold_the_same_weights_and_one_of_them_saves(
    base, items, tmp_path: Path
) -> None:
    script = tmp_path / "each.py"
    script.write_text(SAVES_ON_EACH)
    job = tiny_model.make_job(
        base, tmp_path / "out", items, train_batch_size=1, learning_rate=1e-2, max_train_steps=8,
        save_every_n_steps=4, save_state=True, save_precision="float",
    )  # fmt: skip
    process = launch(job, script)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, (tmp_path / "out" / "stderr").read_text()[-3000:]
    events = [event for event in map(engine.read, out.splitlines()) if event is not None]
    assert [event.step for event in of_kind(events, Step)] == list(range(1, 9))
    assert [event.step for event in of_kind(events, Checkpoint)] == [4, 8]
    assert [event.step for event in of_kind(events, StateSaved)] == [4, 8]
    assert len(of_kind(events, Done)) == 1
    for name in ("step00000004", ""):
        one, other = (tmp_path / "out" / f"rank-{rank}-{name}.safetensors" for rank in (0, 1))
        assert_same(one, other)
        saved = load_file(tmp_path / "out" / f"lora{'-' if name else ''}{name}.safetensors")
        assert all(torch.equal(value, saved[key]) for key, value in load_file(one).items())


def test_launched_processes_end_with_their_launcher(base, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(base, tmp_path, items, train_batch_size=1, max_train_steps=100_000)
    process = launch(job)
    assert process.stdout is not None
    for line in process.stdout:
        if isinstance(engine.read(line), Step):
            process.kill()  # the launcher alone: its workers have sessions of their own
            break
    process.communicate(timeout=30)  # workers that are still running would hold the output open
