"""What supervision, events, pages and background delivery cost a training: steps per second.

    python -m bench.overhead [--steps 400] [--rounds 5]

The same job of the tiny base, in turn: by `tenner train`, which keeps a log and a page, judges
every checkpoint and sends it with its state to a folder while it trains; and by the bare engine,
whose lines are only read. Steps per second are taken between step 20 and the last one, so neither
loading nor the end is in them; checkpoints and states are saved in both. The median of the rounds'
ratios is told, with all of them: on a machine that does other things too, single ones are noise.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tenner.engines.diffusers.engine import command
from tenner.tiny import concept_dir

FIRST = 20


def supervised(folder: Path, steps: int) -> float:
    """Steps per second of `tenner train`; its job stays in the run's directory."""
    words = (
        *("train", str(concept_dir()), "--base_model", "tiny", "--resolution", "64"),
        *("--min_bucket_reso", "64", "--batch_size", "4", "--network_dim", "16"),
        *("--optimizer_type", "AdamW", "--learning_rate", "1e-3", "--no_samples"),
        *("--max_train_steps", str(steps), "--save_every_n_steps", "50"),
        *("--output_dir", str(folder / "output"), "--output_name", "star"),
        *("--destinations", f"file://{folder}/kept"),
    )
    done = subprocess.run(
        [sys.executable, "-m", "tenner", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    at: dict[int, float] = {}
    for line in (folder / "output" / "star" / "events.jsonl").read_text().splitlines():
        found = json.loads(line)
        if found["event"] == "step":
            at[found["step"]] = datetime.fromisoformat(found["time"]).timestamp()
    return (steps - FIRST) / (at[steps] - at[FIRST])


def bare(folder: Path, steps: int) -> float:
    """Steps per second of the engine alone, on the job that `supervised` left."""
    job = json.loads((folder / "output" / "star" / "job.json").read_text())
    for key in ("output_dir", "state_dir"):
        job[key] = str(folder / "bare" / key)
        Path(job[key]).mkdir(parents=True, exist_ok=True)
    path = folder / "bare.json"
    path.write_text(json.dumps(job))
    started = command(path, Path(sys.executable))
    at: dict[int, float] = {}
    with subprocess.Popen(
        started.argv,
        env={**os.environ, **started.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"event": "step"'):
                at[json.loads(line)["step"]] = time.time()
    assert process.returncode == 0
    return (steps - FIRST) / (at[steps] - at[FIRST])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    ratios: list[float] = []
    with TemporaryDirectory(prefix="tenner-overhead-") as name:
        folder = Path(name)
        for turn in range(asked.rounds):
            with_it, alone = supervised(folder, asked.steps), bare(folder, asked.steps)
            ratios.append(with_it / alone)
            print(f"round {turn}: {with_it:.2f} against {alone:.2f} steps/s, {ratios[-1]:.3f}")
            sys.stdout.flush()
            for each in folder.iterdir():
                shutil.rmtree(each) if each.is_dir() else each.unlink()
    print(f"median {statistics.median(ratios):.3f} over {len(ratios)} rounds")
    print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
