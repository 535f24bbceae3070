"""A training as a row of numbers: a job for the built-in trainer, and what its process reports."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tenner.core.events import Event, Failed, MemoryUsed, Phase, Step, Warned, parse_event
from tenner.core.train_job import TrainItem, TrainJob

FIRST_STEPS = 3
"""Steps that are not timed: convolutions are searched for, pools are filled."""


@dataclass(kw_only=True)
class Reported:
    """The output of a trainer's process, with the time of each step in seconds."""

    returncode: int = 0
    steps: list[tuple[float, Step]] = field(default_factory=list[tuple[float, Step]])
    memory: MemoryUsed | None = None
    failed: Failed | None = None
    graphs_captured: bool = False
    notices: list[str] = field(default_factory=list[str])
    errors: str = ""

    def add(self, event: Event | None, second: float) -> None:
        match event:
            case Step():
                self.steps.append((second, event))
            case MemoryUsed():
                self.memory = event
            case Failed():
                self.failed = event
            case Warned():
                self.notices.append(str(event.text))
            case Phase(name="capturing", detail=detail) if "took" in detail:
                self.graphs_captured = True
            case _:
                pass

    @property
    def seconds_per_step(self) -> float | None:
        """The mean over the later steps; losses come a step or two late, and that is the same for
        the first and the last of them."""
        timed = [second for second, event in self.steps if event.step > FIRST_STEPS]
        return (timed[-1] - timed[0]) / (len(timed) - 1) if len(timed) > 1 else None

    def row(self) -> dict[str, Any]:
        losses = [event.loss for _, event in self.steps]
        return {
            "returncode": self.returncode,
            "seconds_per_step": self.seconds_per_step,
            "num_steps": len(self.steps),
            "mean_loss": statistics.fmean(losses) if losses else None,
            "losses": losses[:8],
            "allocated_gb": self.memory.allocated_bytes / 1e9 if self.memory else None,
            "reserved_gb": self.memory.reserved_bytes / 1e9 if self.memory else None,
            "graphs_captured": self.graphs_captured,
            "notices": self.notices[:4],
            "failure": self.failed.kind if self.failed else None,
            "failure_text": str(self.failed.text)[:300] if self.failed else None,
            "errors": self.errors[-600:] if self.returncode not in (0, 20) else "",
        }


def make_job(
    base: Path, family: str, pictures: Sequence[Path], folder: Path, *, side: int, **changes: Any
) -> TrainJob:
    """The guide's job on pictures of one size, as often repeated as steps need them."""
    batch = int(changes.get("train_batch_size", 1))
    steps = int(changes.get("max_train_steps", 1))
    repeats = -(-batch * steps // len(pictures))
    items = tuple(
        TrainItem(
            image=str(path),
            caption=path.with_suffix(".txt").read_text(encoding="utf-8"),
            bucket=(side, side),
            resized=(side, side),
            num_repeats=repeats,
        )
        for path in pictures
    )
    values: dict[str, Any] = {
        "mixed_precision": "bf16",
        "network_dim": 32,
        "network_alpha": 16.0,
        "optimizer_type": "AdamW8bit",
        "save_state": False,
        "network_train_unet_only": True,
    }
    return TrainJob(
        base=str(base),
        family=family,  # pyright: ignore[reportArgumentType]
        items=items,
        resolution=(side, side),
        output_dir=str(folder),
        output_name="lora",
        state_dir=str(folder / "state"),
        cache_dir=str(pictures[0].parent / f"latents-{family}"),
        **(values | changes),
    )


def train(job: TrainJob, environ: Mapping[str, str], *, limit: float) -> Reported:
    """Run a job in a process of its own. After `limit` seconds it is ended, and -9 reported."""
    Path(job.cache_dir or job.output_dir).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="row-") as name:
        path = Path(name) / "job.json"
        path.write_text(job.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "tenner.engines.native.train", str(path)]
        return follow(command, environ, limit=limit, errors=Path(name) / "stderr")


def follow(
    command: Sequence[str], environ: Mapping[str, str], *, limit: float, errors: Path
) -> Reported:
    """What a process reports that prints an event a line."""
    found = Reported()
    ends = time.monotonic() + limit
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command, env=dict(environ), stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            found.add(parse_event(line), time.perf_counter())
            if time.monotonic() > ends:
                process.kill()
        found.returncode = process.wait()
    found.errors = errors.read_text(encoding="utf-8", errors="replace")
    return found


def add_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row, on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a file; a cut last line is left out."""
    if not path.is_file():
        return []
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
