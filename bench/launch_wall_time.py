"""`tenner train` with sd-scripts against a bare `accelerate launch` of the same job, in turn.

    python -m bench.launch_wall_time BASE DATASET [--steps 4] [--rounds 3]

BASE is a Stable Diffusion 1.5 in diffusers layout (random weights do), DATASET a folder of
captioned 64 px images. Needs SD_SCRIPTS_DIR and TENNER_TRAINER_PYTHON. A first run, not counted,
brings the files into memory, so that neither pays for the disk. The bare run gets the very
arguments that tenner gave the trainer, with paths of its own; tenner's time holds everything it
adds: the check of every image, the proof of write access, states, reading the weights back,
delivery, the page. Samples are off, since the bare run draws none.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tenner.clip_tokenizers import write_clip_tokenizers

_OWN_PATHS = ("train_data_dir", "output_dir", "logging_dir", "tokenizer_cache_dir")


def main() -> None:
    """Run both in turn and print medians and the ratio of each round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if "SD_SCRIPTS_DIR" not in os.environ or "TENNER_TRAINER_PYTHON" not in os.environ:
        sys.exit("set SD_SCRIPTS_DIR and TENNER_TRAINER_PYTHON")
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {asked.steps} steps, batch 2, 64 px")
    pairs: list[tuple[float, float]] = []
    for number in range(asked.rounds + 1):
        with TemporaryDirectory(prefix="launch-wall-time-") as name:
            folder = Path(name)
            ours, words = with_tenner(asked.base, asked.dataset, asked.steps, folder)
            theirs = with_accelerate(words, asked.dataset, folder)
        if number == 0:
            continue
        pairs.append((ours, theirs))
        print(f"round {number}: tenner {ours:.1f} s, accelerate launch {theirs:.1f} s")
    ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"medians: tenner {ours:.1f} s, accelerate launch {theirs:.1f} s; ratio {ratio:.3f}")


def with_tenner(base: Path, dataset: Path, steps: int, folder: Path) -> tuple[float, list[str]]:
    """Seconds of the whole command, and the arguments with which it started the trainer."""
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
        f'case "$1" in */train_network.py) {sys.executable} -S -c '
        f'\'import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], "w"))\' {noted} "$@";;'
        f' esac\nexec {real} "$@"\n'
    )
    spy.chmod(0o755)
    environment = {**os.environ, "TENNER_TRAINER_PYTHON": str(spy)}
    seconds = _timed(command, folder, environment)
    return seconds, json.loads(noted.read_text())


def with_accelerate(words: list[str], dataset: Path, folder: Path) -> float:
    """Seconds of `accelerate launch` with the same arguments, on a dataset folder of its own."""
    script, *options = words
    place = folder / "bare"
    (place / "data").mkdir(parents=True)
    (place / "data" / "1_concept").symlink_to(dataset.absolute())
    paths = {
        "train_data_dir": place / "data",
        "output_dir": place / "output",
        "logging_dir": place / "logs",
        "tokenizer_cache_dir": write_clip_tokenizers(place / "tokenizers"),
    }
    kept = [each for each in options if each.partition("=")[0].lstrip("-") not in _OWN_PATHS]
    assert len(kept) == len(options) - len(_OWN_PATHS), options
    named = [f"--{name}={path}" for name, path in paths.items()]
    python = os.environ["TENNER_TRAINER_PYTHON"]
    launch = [python, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
    launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    launch += [f"--num_cpu_threads_per_process={os.cpu_count()}"]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    environment = {**os.environ, **offline}
    return _timed([*launch, script, *kept, *named], Path(script).parent, environment)


def _timed(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
