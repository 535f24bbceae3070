"""What passes between `docker run` and the first step, in turns with the trainer alone.

python -m bench.image_start [IMAGE] [TURNS]

The tiny base on the CPU. The trainer alone is the image's own Python on the job that the first run
wrote: what it takes is torch's import and the base's loading, which no start can be without. Times
are wall seconds; with other load on the machine the smallest are the most reliable.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from tenner.base.tiny import concept_dir

JOB = (
    *("train", "--base_model", "tiny", "--resolution", "64", "--min_bucket_reso", "64"),
    *("--batch_size", "2", "--network_dim", "4", "--optimizer_type", "AdamW", "--no_samples"),
    *("--max_train_steps", "2", "--save_every_n_steps", "2", "--dataset", "/data"),
)
TRAINER = (
    "cd /workspace && PYTHONPATH=/opt/tenner-app exec /opt/trainer/bin/python"
    " -m tenner.engines.native.train output/my_lora/job.json"
)


def seconds_to(word: str, image: str, folder: Path, *command: str) -> tuple[float, float]:
    """From the start until a line holds `word`, and until the end."""
    mounts = ("-v", f"{folder}:/workspace", "-v", f"{concept_dir()}:/data:ro")
    started = time.perf_counter()
    first = 0.0
    with subprocess.Popen(
        ["docker", "run", "--rm", "--network", "none", *mounts, image, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not first and word in line:
                first = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"{command} ended with {process.returncode}")
    return first, time.perf_counter() - started


def stages(folder: Path) -> list[tuple[str, float]]:
    """The run's own stages with the seconds that each took, from its events."""
    lines = (folder / "output" / "my_lora" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    marks: list[tuple[str, datetime]] = []
    for each in events:
        if each["event"] in ("phase", "step"):
            name = str(each.get("name") or f"step {each['step']}")
            if not marks or marks[-1][0] != name:
                marks.append((name, datetime.fromisoformat(each["time"])))
    return [(name, (end - at).total_seconds()) for (name, at), (_, end) in pairwise(marks)]


def main(image: str = "tenner:slim", turns: str = "5") -> None:
    """Print medians and least times of both, and the last run's stages."""
    runs: list[float] = []
    alone: list[float] = []
    for _ in range(int(turns)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o777)
            runs.append(seconds_to("step 1/2", image, folder, *JOB)[0])
            reported = stages(folder)
            alone.append(seconds_to('"step"', image, folder, "bash", "-c", TRAINER)[0])
    version = [seconds_to("tenner", image, Path("/tmp"), "version")[0] for _ in range(int(turns))]
    for name, found in (("run", runs), ("trainer alone", alone), ("tenner version", version)):
        print(f"{name:<14} median {statistics.median(found):.1f} s, least {min(found):.1f} s")
    print("stages of the last run: " + ", ".join(f"{name} {took:.1f} s" for name, took in reported))
    print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main(*sys.argv[1:])
