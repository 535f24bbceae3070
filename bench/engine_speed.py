"""Our engine against sd-scripts: the same job through `tenner train`, in turn, on this machine.

    python -m bench.engine_speed BASE DATASET [--steps 25] [--rounds 2]

BASE is a Stable Diffusion 1.5 in diffusers layout (random weights do), DATASET a folder of
captioned 64 px images. Needs SD_SCRIPTS_DIR and TENNER_TRAINER_PYTHON. Steps per second are taken
between the first and the last step, so loading is not in them; peak memory is the largest
process's.

The floor is what the step would take if this machine did its floating-point operations at the
speed of a large matrix product and moved its bytes at the speed of a large copy, one after the
other. Operations: U-Net 0.803 TFLOP forward at 512 px (64x64 latents), three times that for
training a LoRA less the frozen weights' gradients (2.3 in all, as traced at 1.844), scaled by
latent area; weights are read three times (forward, backward, and once more for the encoder).

On two cores (277 GFLOP/s, 22.8 GB/s), 25 steps, two rounds: 0.676 steps a second (torch 2.13)
against sd-scripts' 0.472 (torch 2.4.1), a ratio of 1.43; mean losses 1.1 % apart; peak memory 0.61.
They take 1.5 and 2.1 times the floor. What a GPU waits for instead, operations and bytes, is
counted by `bench/engine_ops.py`.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.sd15_job import read_arguments

TRAINING_TFLOP_512 = 1.844  # SD 1.5, LoRA on the U-Net, one image, forward and backward
TEXT_TFLOP = 0.04  # CLIP-L, 77 tokens, forward and backward of a LoRA
WEIGHT_BYTES = (859.5e6 + 123.1e6) * 4


@dataclass(frozen=True, kw_only=True)
class Result:
    """One training: speed, mean loss of its first steps, and memory in GB."""

    seconds_per_step: float
    mean_loss: float
    peak_gb: float


def main() -> None:
    """Run both engines in turn and print medians and ratios."""
    options = read_arguments(__doc__, steps=25, rounds=2)
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, {options.steps} steps, batch 2, 64 px, fp32"
    )
    found: dict[str, list[Result]] = {"native": [], "sd-scripts": []}
    for number in range(options.rounds):
        for engine, results in found.items():
            result = train(engine, options.base, options.dataset, options.steps)
            results.append(result)
            print(f"round {number + 1} {engine:10} {result}", flush=True)
    floor = floor_seconds(batch=2, side=64)
    medians = {
        engine: statistics.median(each.seconds_per_step for each in results)
        for engine, results in found.items()
    }
    for engine, seconds in medians.items():
        print(f"{engine:10} {1 / seconds:.3f} steps/s, {seconds / floor:.1f} times the floor")
    ours, theirs = found["native"], found["sd-scripts"]
    pairs = zip(ours, theirs, strict=True)
    speed = statistics.median(b.seconds_per_step / a.seconds_per_step for a, b in pairs)
    loss = ours[0].mean_loss / theirs[0].mean_loss
    memory = max(each.peak_gb for each in ours) / max(each.peak_gb for each in theirs)
    print(f"ours / sd-scripts: speed {speed:.2f}, mean loss {loss:.3f}, peak memory {memory:.2f}")


def train(engine: str, base: Path, dataset: Path, steps: int) -> Result:
    """One job with one engine."""
    job = {
        "engine": engine,
        "base_model": base.absolute(),
        "dataset": dataset.absolute(),
        "resolution": 64,
        "min_bucket_reso": 64,
        "batch_size": 2,
        "max_train_steps": steps,
        "save_every_n_steps": steps,
        "learning_rate": 1e-4,
        "text_encoder_lr": 5e-5,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "network_dim": 32,
        "optimizer_type": "AdamW",
        "device": "cpu",
    }
    with TemporaryDirectory(prefix="engine-speed-") as folder:
        words = [word for key, value in job.items() for word in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "tenner", "train", *words, "--no_samples"]
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        memory = PeakMemory(process.pid)
        output, _ = process.communicate()
        if process.returncode != 0:
            sys.exit(output)
        return _read(Path(folder) / "output" / "my_lora" / "events.jsonl", memory.stop())


class PeakMemory:
    """The highest resident memory of any process below another, in GB, watched twice a second."""

    def __init__(self, root: int) -> None:
        self._root, self._peak, self._ended = root, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            for pid in _below(self._root):
                self._peak = max(self._peak, _high_water_gb(pid))


def _below(root: int) -> list[int]:
    children = Path(f"/proc/{root}/task/{root}/children")
    try:
        direct = [int(pid) for pid in children.read_text().split()]
    except OSError:
        return []
    return direct + [pid for child in direct for pid in _below(child)]


def _high_water_gb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    found = next((line for line in lines if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(found.split()[1]) * 1024 / 1e9


def _read(events: Path, peak_gb: float) -> Result:
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    times = [datetime.fromisoformat(line["time"]).timestamp() for line in steps]
    first, last = steps[0]["step"], steps[-1]["step"]
    shown = [line for line in steps if line["step"] <= 20]
    return Result(
        seconds_per_step=(times[-1] - times[0]) / (last - first),
        mean_loss=shown[-1]["loss_avg"],
        peak_gb=peak_gb,
    )


def floor_seconds(*, batch: int, side: int) -> float:
    """Seconds of a step at this machine's own matrix product and copy speeds, fp32."""
    code = (
        "import time, torch\n"
        "n = 2048; a = torch.rand(n, n); a @ a\n"
        "t = time.perf_counter(); [a @ a for _ in range(5)]\n"
        "print(5 * 2 * n**3 / (time.perf_counter() - t))\n"
        "b = torch.rand(64_000_000); c = torch.empty_like(b); c.copy_(b)\n"
        "t = time.perf_counter(); [c.copy_(b) for _ in range(5)]\n"
        "print(5 * 2 * b.numel() * 4 / (time.perf_counter() - t))\n"
    )
    python = os.environ["TENNER_TRAINER_PYTHON"]
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    flops, bandwidth = (float(line) for line in done.stdout.split())
    tflop = batch * (TRAINING_TFLOP_512 * (side / 512) ** 2 + TEXT_TFLOP)
    moved = 3 * WEIGHT_BYTES
    print(f"this CPU: {flops / 1e9:.0f} GFLOP/s in a product, {bandwidth / 1e9:.1f} GB/s in a copy")
    return tflop * 1e12 / flops + moved / bandwidth


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"took {time.perf_counter() - started:.0f} s")
