"""How the trainer's process is started and what its lines mean. Pure; no torch.

The process prints one event (`tenner.core.events`) a line on stdout. What else it or its libraries
print goes to stderr, or is ignored.
"""

import os
from enum import IntEnum
from pathlib import Path

from tenner.core.command import Command
from tenner.core.events import Event, parse_event
from tenner.core.parent_death import dying_with_launcher

MODULE = "tenner.engines.native.train"


class EngineExit(IntEnum):
    """Exit codes of the trainer's process. A `failed` event explains those that are errors."""

    DONE = 0
    """Finished, or stopped by the stop file with its state saved."""
    OUT_OF_MEMORY = 20
    NOT_FINITE = 21
    NO_DATA = 22
    BASE_MODEL = 23
    BROKEN_STATE = 24
    """The state to resume is damaged or of another job: take the one before."""
    DISK = 26
    """The disk is full, over its quota, read-only or broken."""
    JOB = 25
    """The job itself cannot be done: an option's value, an optimizer that is not installed."""
    STOPPED = 143
    """SIGTERM or SIGINT; the state was saved."""


def command(
    job_path: Path,
    python: Path,
    *,
    num_processes: int = 1,
    threads_per_process: int = 1,
    module: str = MODULE,
) -> Command:
    """The command that does the job at `job_path`: one process, or one for each of `num_processes`
    GPUs, each with `threads_per_process` CPU threads.

    `python` is an interpreter with torch, diffusers and transformers; this package is put on its
    path, so that tenner's own dependencies need not be installed there.
    """
    environment = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": _with_package(os.environ.get("PYTHONPATH", "")),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Buckets differ in size: without it, fixed segments fragment until memory runs out.
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    run = ("-m", module, str(job_path))
    if num_processes == 1:
        return Command(argv=(str(python), *run), env=environment)
    launch = (
        *("-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_processes", str(num_processes), "--num_machines", "1"),
        # The job has the precision and the compiler; the launcher's own would be a second one.
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--num_cpu_threads_per_process", str(threads_per_process), "--no_python"),
    )
    return Command(
        argv=(str(python), *launch, *dying_with_launcher(str(python), run)), env=environment
    )


def read(line: str) -> Event | None:
    """The event that a line of the process holds, or None."""
    return parse_event(line)


def _with_package(python_path: str) -> str:
    package_root = str(Path(__file__).resolve().parents[3])
    parts = [part for part in python_path.split(os.pathsep) if part and part != package_root]
    return os.pathsep.join([package_root, *parts])
