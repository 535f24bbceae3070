"""The loss on held-out pictures: on the same samples each time, without effect on the training."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
from safetensors.torch import load_file

from tenner.core.events import Event, Validated
from tenner.core.train_job import TrainJob
from tenner.engines.native import engine


def train(job: TrainJob) -> list[Event]:
    Path(job.output_dir).mkdir(parents=True)
    path = Path(job.output_dir) / "job.json"
    path.write_text(job.to_json())
    assert TrainJob.from_json(path.read_text()) == job
    command = engine.command(path, Path(sys.executable))
    done = subprocess.run(
        command.argv, env={**os.environ, **command.env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [event for event in map(engine.read, done.stdout.splitlines()) if event]


@pytest.mark.long
def test_it_is_reported_after_epochs_and_leaves_the_training_as_it_is(tmp_path: Path) -> None:
    base = tiny_model.make_base(tmp_path / "base")
    items = tiny_model.make_items(tmp_path / "data", 6)
    job = tiny_model.make_job(
        base,
        tmp_path / "with",
        items[:4],
        validation_items=tuple(replace(item, num_repeats=1) for item in items[4:]),
        network_dropout=0.3,
        flip_aug=True,
        learning_rate=0.0,
        unet_lr=0.0,
        text_encoder_lr=(0.0,),
        max_train_steps=12,
    )
    reported = [event for event in train(job) if isinstance(event, Validated)]
    assert len(reported) >= 2
    assert [event.num_images for event in reported] == [2] * len(reported)
    losses = {event.loss for event in reported}
    assert len(losses) == 1, "with a rate of zero nothing changes: same questions, no dropout"
    learning = replace(job, learning_rate=1e-2, unet_lr=None, text_encoder_lr=None)
    seen = train(
        replace(learning, output_dir=str(tmp_path / "seen"), state_dir=str(tmp_path / "s"))
    )
    assert len({event.loss for event in seen if isinstance(event, Validated)}) == len(reported)
    unseen = replace(learning, validation_items=(), output_dir=str(tmp_path / "unseen"))
    train(replace(unseen, state_dir=str(tmp_path / "u")))
    one, other = (load_file(tmp_path / name / "lora.safetensors") for name in ("seen", "unseen"))
    assert all(torch.equal(one[name], other[name]) for name in one)
