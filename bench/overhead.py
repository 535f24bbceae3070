"""What supervision, events, pages and background delivery cost a training: steps per second.

    python -m bench.overhead [SECONDS]      150 s by default

The same endless job of the tiny base runs twice: by `tenner train`, which writes a log and a page,
checks every checkpoint and sends it with its state to a folder; and by the bare engine, whose lines
are only read. They run in turn for eight seconds each, while the other is stopped (SIGSTOP). Both
save checkpoints and states every 200 steps, some ten seconds, where a real run saves a few times in
an hour. Reported are the ratios of steps per second, their median and the ratio over all intervals;
the ratio of the engine's own CPU seconds a step, which other load on the machine does not change;
and the CPU time of the supervisor.

On two cores with nothing else to do: ratio of steps per second 1.03 in the median and 1.02 of all,
single intervals 0.80 to 1.28 (the machine varies); the engine's CPU time a step 0.97 times that of
the bare one; the supervisor uses 1.0 ms of the CPU a step, 0.017 of a core. With a save every
50 steps, every three seconds, the median was 0.986.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tenner.base.tiny import concept_dir
from tenner.core.command import CHILD_DEFAULTS
from tenner.engines.native.engine import command

SETTLE_SECONDS = 0.5
INTERVAL_SECONDS = 8.0
WARM_STEPS = 20
ENDLESS = 1_000_000
JOB = (
    *("train", str(concept_dir()), "--base_model", "tiny", "--resolution", "64"),
    *("--min_bucket_reso", "64", "--batch_size", "4", "--network_dim", "16"),
    *("--optimizer_type", "AdamW", "--learning_rate", "1e-3", "--no_samples"),
    *("--max_train_steps", str(ENDLESS), "--save_every_n_steps", "200", "--output_name", "star"),
)


@dataclass(kw_only=True)
class Side:
    """One of the two programs: its processes, its engine's PID, and what was measured."""

    pids: list[int]
    engine: int
    steps: list[int] = field(default_factory=lambda: [0])
    rates: list[float] = field(default_factory=list[float])
    cpu_per_step: list[float] = field(default_factory=list[float])
    own_cpu_per_step: list[float] = field(default_factory=list[float])

    def send(self, number: signal.Signals) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def measure(self) -> None:
        """Run for one interval, and record its rates."""
        self.send(signal.SIGCONT)
        time.sleep(SETTLE_SECONDS)
        before = self._now()
        time.sleep(INTERVAL_SECONDS)
        took, steps, engine, others = (b - a for a, b in zip(before, self._now(), strict=True))
        self.send(signal.SIGSTOP)
        self.rates.append(steps / took)
        self.cpu_per_step.append(engine / max(1, steps))
        self.own_cpu_per_step.append(others / max(1, steps))

    def _now(self) -> tuple[float, float, float, float]:
        others = sum(cpu_seconds(pid) for pid in self.pids if pid != self.engine)
        return time.monotonic(), self.steps[-1], cpu_seconds(self.engine), others


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    return [
        int(each)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for each in (task / "children").read_text().split()
    ]


def count_steps(path: Path, steps: list[int]) -> None:
    """Append the steps of a log of events to `steps` until this program ends. For a thread."""
    with path.open() as log:
        while True:
            line = log.readline()
            if not line:
                time.sleep(0.02)
            elif '"event": "step"' in line and line.endswith("\n"):
                steps.append(json.loads(line)["step"])


@contextlib.contextmanager
def supervised(folder: Path) -> Generator[Side]:
    """`tenner train`, once it has trained a step."""
    arguments = (*JOB, "--output_dir", str(folder), "--destinations", f"file://{folder}/delivered")
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tenner", *arguments], stdout=log, stderr=log
        ) as process,
    ):
        try:
            events = folder / "star" / "events.jsonl"
            while '"event": "step"' not in (events.read_text() if events.is_file() else ""):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            (engine,) = children(process.pid)
            side = Side(pids=[process.pid, engine], engine=engine)
            threading.Thread(target=count_steps, args=(events, side.steps), daemon=True).start()
            yield side
        finally:
            process.kill()  # the engine ends with it


@contextlib.contextmanager
def bare(folder: Path, job_file: Path) -> Generator[Side]:
    """The engine alone, with the job of the supervised one."""
    job = json.loads(job_file.read_text())
    for key in ("output_dir", "state_dir"):
        job[key] = str(folder / key)
        Path(job[key]).mkdir(parents=True)
    path = folder / "bare.json"
    path.write_text(json.dumps(job))
    started = command(path, Path(sys.executable))
    log = folder / "events"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            started.argv,
            env={**CHILD_DEFAULTS, **os.environ, **started.env},
            stdout=out,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            side = Side(pids=[process.pid], engine=process.pid)
            threading.Thread(target=count_steps, args=(log, side.steps), daemon=True).start()
            yield side
        finally:
            process.kill()


def warm(side: Side) -> None:
    """Run the first steps, then stop it."""
    side.send(signal.SIGCONT)
    while side.steps[-1] < WARM_STEPS:
        time.sleep(0.1)
    side.send(signal.SIGSTOP)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 150.0
    with TemporaryDirectory(prefix="tenner-overhead-", ignore_cleanup_errors=True) as name:
        folder, own = Path(name) / "run", Path(name) / "bare"
        folder.mkdir()
        own.mkdir()
        with supervised(folder) as run:
            warm(run)
            with bare(own, folder / "star" / "job.json") as engine:
                warm(engine)
                deadline, order = time.monotonic() + seconds, [run, engine]
                while time.monotonic() < deadline:
                    for side in order:
                        side.measure()
                    order.reverse()
    ratios = [a / b for a, b in zip(run.rates, engine.rates, strict=True)]
    cpu = [a / b for a, b in zip(run.cpu_per_step, engine.cpu_per_step, strict=True)]
    supervisor = statistics.median(run.own_cpu_per_step)
    reported = {
        "steps_per_second_alone": round(statistics.median(engine.rates), 2),
        "step_ratios": [round(each, 3) for each in ratios],
        "step_ratio_median": round(statistics.median(ratios), 4),
        "step_ratio_of_all": round(sum(run.rates) / sum(engine.rates), 4),
        "engine_cpu_per_step_ratio_median": round(statistics.median(cpu), 4),
        "supervisor_cpu_ms_per_step": round(1000 * supervisor, 2),
        "supervisor_cores": round(supervisor * statistics.median(run.rates), 4),
        "load_of_this_machine": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(reported, indent=1))


if __name__ == "__main__":
    main()
