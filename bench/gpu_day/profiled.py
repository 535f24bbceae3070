"""A few steps of a job under torch's profiler: `python -m bench.gpu_day.profiled JOB TRACE`.

Prints one line of JSON: for a steady step the kernels, copies and synchronizations, CPU and device
seconds, and the kernels that take most of the time. Leaves the trace, for chrome://tracing.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tenner.core.train_job import TrainJob, read_job
from tenner.engines.native.batches import schedule_of
from tenner.engines.native.latents import encode_all
from tenner.engines.native.load import load_base, load_vae
from tenner.engines.native.loop import Trainer
from tenner.engines.native.network import build_network
from tenner.engines.native.noise import NoiseSchedule
from tenner.engines.native.processes import join_processes

WARM, MEASURED = 3, 3


def make_trainer(job: TrainJob) -> Trainer:
    """A trainer before its first step, as the trainer's process makes it, whose events go
    nowhere."""
    processes = join_processes()
    base = load_base(job)
    latents = encode_all(job, lambda: load_vae(base), "vae", processes.device, lambda *_: None)
    network = build_network(job, base, processes.device)
    noise = NoiseSchedule(job, base.scheduler)
    trainer = Trainer(job, network, noise, latents, schedule_of(job), processes, lambda _: None)
    trainer.encode_captions(lambda *_: None)
    return trainer


def main(job_path: Path, trace: Path) -> None:
    """Profile the steps."""
    torch.backends.cudnn.benchmark = True
    trainer = make_trainer(read_job(job_path))
    for _ in range(WARM):
        trainer._one_step()
    with torch.profiler.profile() as profile:
        for _ in range(MEASURED):
            trainer._one_step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    trainer.close()
    profile.export_chrome_trace(str(trace))
    print(json.dumps(counts_of(profile)))


def counts_of(profile: Any) -> dict[str, Any]:
    """Counts and seconds of one step."""
    events = list(profile.events())
    on_card = [each for each in events if each.device_type == torch.autograd.DeviceType.CUDA]
    names = Counter(each.name for each in events)
    kernels = [each for each in on_card if not each.name.startswith(("Memcpy", "Memset"))]
    time: Counter[str] = Counter()
    for each in kernels:
        time[each.name[:80]] += each.time_range.elapsed_us()
    called = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpyAsync", "aten::item")
    averages = profile.key_averages()
    return {
        "operations": sum(name.startswith("aten::") * n for name, n in names.items()) // MEASURED,
        "kernels": len(kernels) // MEASURED,
        "copies": sum(each.name.startswith("Memcpy HtoD") for each in on_card) / MEASURED,
        "calls": {name: names[name] / MEASURED for name in called},
        "card_seconds": sum(time.values()) / 1e6 / MEASURED,
        "cpu_seconds": sum(each.self_cpu_time_total for each in averages) / 1e6 / MEASURED,
        "slowest": {name: us / 1e6 / MEASURED for name, us in time.most_common(12)},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
