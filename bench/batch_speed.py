"""Ten tiny jobs in one `tenner batch` against ten separate `tenner train` starts, in one run.

python -m bench.batch_speed [number of jobs]

Both train the same jobs: the first, a sweep over seeds, is checked to have given the same weights.
Wall time is what a user pays for; CPU time is reported beside it, since other work on the machine
stretches the one and not the other.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tenner.base.tiny import concept_dir

JOB = f"""
base_model = "tiny"
dataset = "{concept_dir()}"
resolution = 64
min_bucket_reso = 64
batch_size = 4
network_dim = 4
optimizer_type = "AdamW"
learning_rate = 1e-3
max_train_steps = 10
sample_prompts = ["a picture of sks star"]
sample_seeds = [1, 2]
sample_strengths = [1.0]
sample_steps = 4
"""


def measured(act: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds of `act` and all processes that it waited for."""
    before, started = _cpu_seconds(), time.perf_counter()
    act()
    return time.perf_counter() - started, _cpu_seconds() - before


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start(folder: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "tenner", *words], cwd=folder, capture_output=True, check=True
    )


def weights(folder: Path, name: str) -> bytes:
    """The tensors of a run's LoRA, without the header, which has the time."""
    content = (folder / "output" / name / "checkpoints" / f"{name}.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def main(num_jobs: int) -> None:
    """Print both times and their ratio."""
    with tempfile.TemporaryDirectory(prefix="tenner-bench-") as name:
        folder = Path(name)
        (folder / "alone.toml").write_text(JOB)
        seeds = list(range(1, num_jobs + 1))
        (folder / "jobs.toml").write_text(f"{JOB}\n[sweep]\nseed = {seeds}\n")
        start(folder, "plan", "alone.toml")  # files are in memory for both

        def one_by_one() -> None:
            for seed in seeds:
                start(
                    folder, "train", "alone.toml", f"--seed={seed}", f"--output_name=alone-{seed}"
                )

        alone_wall, alone_cpu = measured(one_by_one)
        batch_wall, batch_cpu = measured(lambda: start(folder, "batch", "jobs.toml"))
        for seed in seeds:
            assert weights(folder, f"alone-{seed}") == weights(folder, f"jobs-seed-{seed}"), seed
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{num_jobs} x tenner train  {alone_wall:6.1f} s wall  {alone_cpu:6.1f} s CPU")
    print(f"1 x tenner batch  {batch_wall:6.1f} s wall  {batch_cpu:6.1f} s CPU")
    ratio, cpu_ratio = batch_wall / alone_wall, batch_cpu / alone_cpu
    print(f"ratio {ratio:.2f} of the wall time, {cpu_ratio:.2f} of the CPU time; same weights")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
