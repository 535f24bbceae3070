"""Runs the trainer's process for a job and reads its events."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tenner.core.events import (
    Event,
)
from tenner.core.train_job import TrainJob
from tenner.engines.native import engine


def start(job: TrainJob, **environ: str) -> subprocess.Popen[str]:
    location = Path(job.output_dir)
    location.mkdir(parents=True, exist_ok=True)
    path = location / "job.json"
    path.write_text(job.to_json())
    command = engine.command(path, Path(sys.executable))
    with (location / "stderr").open("w") as output:
        return subprocess.Popen(
            command.argv,
            env={**os.environ, **command.env, **environ},
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )


def train(job: TrainJob, expected: int = 0) -> list[Event]:
    process = start(job)
    out, _ = process.communicate(timeout=200)
    output = (Path(job.output_dir) / "stderr").read_text()
    assert process.returncode == expected, f"{out[-2000:]}\n{output[-3000:]}"
    return [event for event in map(engine.read, out.splitlines()) if event is not None]


def of_kind(events: list[Event], kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


def assert_same(one: Path, other: Path) -> None:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
