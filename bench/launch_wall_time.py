"""`tenner train` with sd-scripts against a bare `accelerate launch` of the same job, in turn.

    python -m bench.launch_wall_time BASE DATASET [--steps 4] [--rounds 3]

BASE is a Stable Diffusion 1.5 in diffusers layout (random weights do), DATASET a folder of
captioned 64 px images. Needs SD_SCRIPTS_DIR and TENNER_TRAINER_PYTHON. A first run, not counted,
brings the files into memory, so that neither pays for the disk. The bare run gets the very
arguments that tenner gave the trainer, with paths of its own; tenner's time holds everything it
adds: the check of every image, the proof of write access, states, reading the weights back,
delivery, the page. Samples are off, since the bare run draws none.

Of each run it is reported when its phases began, in seconds after the start of the command (those
of the trainer are read from its log by the same reader in both), and the CPU seconds of all its
processes, which vary less than the clock on a machine with other load.

Measured with 4 steps on two cores: 33.1 s against 35.1 s, a ratio of 0.92 in the median of three
rounds (0.91, 0.97, 0.92). What tenner adds is 0.7 s before the trainer starts and 0.7 s after its
last word; a second import and the two seconds in which the trainer takes itself apart are saved.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.sd15_job import read_arguments
from tenner.base.tokenizers import write_clip_tokenizers
from tenner.engines.sd_scripts.log_lines import LogReader, Output
from tenner.engines.sd_scripts.resume import Attempt

_OWN_PATHS = ("train_data_dir", "output_dir", "logging_dir", "tokenizer_cache_dir")


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Seconds of a whole command, its processes' CPU seconds, and when each phase began."""

    seconds: float
    cpu_seconds: float
    marks: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        phases = ", ".join(f"{name} {at:.1f}" for name, at in self.marks)
        return f"{phases}, end {self.seconds:.1f}; {self.cpu_seconds:.1f} s of CPU"


def main() -> None:
    """Run both in turn and print medians and the ratio of each round."""
    arguments = read_arguments(__doc__, steps=4, rounds=3)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {arguments.steps} steps, batch 2, 64 px")
    pairs: list[tuple[float, float]] = []
    for number in range(arguments.rounds + 1):
        with TemporaryDirectory(prefix="launch-wall-time-") as name:
            folder = Path(name)
            ours, words = with_tenner(arguments.base, arguments.dataset, arguments.steps, folder)
            theirs = with_accelerate(words, arguments.dataset, arguments.steps, folder)
        if number == 0:
            continue
        pairs.append((ours.seconds, theirs.seconds))
        print(f"round {number}: tenner {ours.seconds:.1f} s, accelerate launch", end=" ")
        print(f"{theirs.seconds:.1f} s\n  tenner: {ours}\n  bare: {theirs}", flush=True)
    ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"medians: tenner {ours:.1f} s, accelerate launch {theirs:.1f} s; ratio {ratio:.3f}")


def with_tenner(base: Path, dataset: Path, steps: int, folder: Path) -> tuple[Timed, list[str]]:
    """The times of the whole command, and the arguments with which it started the trainer."""
    job = {
        "engine": "sd-scripts",
        "base_model": base.absolute(),
        "dataset": dataset.absolute(),
        "output_dir": folder / "tenner",
        "resolution": 64,
        "min_bucket_reso": 64,
        "batch_size": 2,
        "max_train_steps": steps,
        "save_every_n_steps": steps,
        "learning_rate": 1e-4,
        "network_dim": 32,
        "device": "cpu",
    }
    words = [word for key, value in job.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "tenner", "train", *words, "--no_samples"]
    # The trainer's interpreter, behind a script that notes its arguments.
    noted = folder / "arguments.json"
    spy = folder / "python"
    real = os.environ["TENNER_TRAINER_PYTHON"]
    spy.write_text(
        "#!/bin/sh\n"
        f'case "$3" in */train_network.py) {sys.executable} -S -c '
        f'\'import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], "w"))\' {noted} "$@";;'
        f' esac\nexec {real} "$@"\n'
    )
    spy.chmod(0o755)
    environment = {**os.environ, "TENNER_TRAINER_PYTHON": str(spy)}
    used, started = _cpu_seconds(), time.time()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.time() - started
    if done.returncode != 0:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    (log,) = (folder / "tenner").glob("*/events.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    reported = [
        (each, datetime.fromisoformat(each["time"]).timestamp() - started) for each in events
    ]
    cpu_seconds = _cpu_seconds() - used
    timed = Timed(seconds=seconds, cpu_seconds=cpu_seconds, marks=_marks(reported))
    return timed, json.loads(noted.read_text())


def with_accelerate(words: list[str], dataset: Path, steps: int, folder: Path) -> Timed:
    """The times of `accelerate launch` with the same arguments, on a dataset folder of its own."""
    _, _, script, *options = words
    location = folder / "bare"
    (location / "data").mkdir(parents=True)
    (location / "data" / "1_concept").symlink_to(dataset.absolute())
    paths = {
        "train_data_dir": location / "data",
        "output_dir": location / "output",
        "logging_dir": location / "logs",
        "tokenizer_cache_dir": write_clip_tokenizers(location / "tokenizers"),
    }
    saved = [each for each in options if each.partition("=")[0].lstrip("-") not in _OWN_PATHS]
    assert len(saved) == len(options) - len(_OWN_PATHS), options
    named = [f"--{name}={path}" for name, path in paths.items()]
    python = os.environ["TENNER_TRAINER_PYTHON"]
    launch = [python, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
    launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    launch += [f"--num_cpu_threads_per_process={os.cpu_count()}"]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    environment = {**os.environ, **offline}
    command = [*launch, script, *saved, *named]
    attempt = Attempt(num_steps=steps, steps_per_epoch=steps)
    reader = LogReader(Output(attempt=attempt, output_dir=str(location), output_name="my_lora"))
    found: list[tuple[dict[str, Any], float]] = []
    lines: list[str] = []
    used, started = _cpu_seconds(), time.time()
    with subprocess.Popen(
        command,
        cwd=Path(script).parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:  # a carriage return ends a line too
            lines.append(line)
            if event := reader.read(line.rstrip("\n")):
                found.append((json.loads(event.to_json()), time.time() - started))
    seconds = time.time() - started
    if process.returncode != 0:
        sys.exit("".join(lines[-40:]))
    return Timed(seconds=seconds, cpu_seconds=_cpu_seconds() - used, marks=_marks(found))


def _cpu_seconds() -> float:
    """Of all programs that were waited for until now."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _marks(events: Iterable[tuple[dict[str, Any], float]]) -> tuple[tuple[str, float], ...]:
    """Seconds of each phase, of the first and last step, and of each kind of file."""
    found: dict[str, float] = {}
    for event, at in events:
        kind = event["event"]
        if kind == "step":
            found.setdefault("first step", at)
            found["last step"] = at
        elif kind == "phase":
            name = event["name"]
            again = (
                name in found and event["done"] is None
            )  # this program's, and then the trainer's
            found.setdefault(f"{name} again" if again else name, at)
        elif kind in ("state", "checkpoint", "done", "sent"):
            found.setdefault(kind, at)
    return tuple(sorted(found.items(), key=lambda each: each[1]))


if __name__ == "__main__":
    main()
