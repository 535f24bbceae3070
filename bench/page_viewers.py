"""What a hundred viewers of a 20,000-step run cost: the page's size, the server's time, the run's.

    python -m bench.page_viewers [SECONDS] [VIEWERS]      150 s and 100 by default

A stand-in for a trainer, a process of its own that computes without pause, reports about twenty
steps a second; this process follows it as a run does (log, events, page). Intervals of five seconds
with the page and its viewers alternate with intervals in which the page gets no events and the
viewers are stopped (SIGSTOP); the first second of each is not counted. Reported are the ratios of
their steps per second and the median, and the ratio of the trainer's own CPU seconds a step, which
other load on the machine does not change.

The page has sixty pictures of noise, which do not compress. Viewers are a process of their own
at a lower priority (they would be other machines), and poll every two seconds with
the last ETag, as the page's script does; the time of an update is measured at the viewer. The CPU
time of the page and of the process that serves it is reported as a share of a core.
"""

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from tenner.base.tiny import concept_dir
from tenner.core.command import Command
from tenner.core.event_log import EventLog
from tenner.core.events import Event, Step, parse_event
from tenner.core.run_dir import RunDir
from tenner.pipeline.preflight import prepare
from tenner.planning.prepared import Prepared
from tenner.report.facts import SampleImage, SampleSet
from tenner.report.live_page import LivePage
from tenner.serve.server import open_page, page_endpoint
from tenner.settings import load_request
from tenner.supervision.budget import Budget
from tenner.supervision.supervise import Control, StopRequest, follow

FIRST_STEP = 20_000
SETTLE_SECONDS = 1.0
INTERVAL_SECONDS = 4.0
TRAINER = """
import json, sys, time
end, step, x = time.monotonic() + float(sys.argv[1]), int(sys.argv[2]), 0.5
while time.monotonic() < end:
    for _ in range(700_000):
        x = 3.7 * x * (1 - x)
    step += 1
    print(json.dumps({"event": "step", "step": step, "num_steps": 10**6, "epoch": 1 + step // 500,
        "num_epochs": 2000, "loss": 0.1 + 0.05 * x, "loss_avg": 0.12, "lr": {"unet": 1e-4},
        "images_per_second": 1.0, "seconds_per_step": 0.002}), flush=True)
"""


def long_run(run_dir: RunDir) -> None:
    """The log of a run of `FIRST_STEP` steps."""
    with EventLog(run_dir.events) as log:
        for number in range(1, FIRST_STEP + 1):
            log.append(
                Step(
                    step=number,
                    num_steps=10**6,
                    epoch=1 + number // 500,
                    num_epochs=2000,
                    loss=0.1 + 0.1 / number**0.3,
                    loss_avg=0.12,
                    lr={"unet": 1e-4, "text_encoder": 5e-5},
                )
            )


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One measured interval: steps per second, the trainer's CPU seconds a step, and the share of a
    core that the page and its server used."""

    rate: float
    cpu_per_step: float
    own_cores: float


@dataclass(kw_only=True)
class Alternation:
    """Follows one trainer, while a thread runs and stops the page and its viewers in turn."""

    page: LivePage
    viewers: int
    server: int
    watched: bool = True
    steps: int = 0
    intervals: dict[bool, list[Interval]] = field(default_factory=lambda: {True: [], False: []})

    def handle(self, event: Event) -> None:
        if isinstance(event, Step):
            self.steps += 1
        if self.watched:
            self.page.handle(event)

    def alternate(self, stop: StopRequest, seconds: float) -> None:
        deadline, first = time.monotonic() + seconds, True
        while not stop.pids and time.monotonic() < deadline:
            time.sleep(0.05)
        while time.monotonic() < deadline:
            for watched in (first, not first):
                self._measure(watched, stop)
            first = not first  # so that neither is always the second of a pair
        os.kill(self.viewers, signal.SIGCONT)

    def _measure(self, watched: bool, stop: StopRequest) -> None:
        self.watched = watched
        os.kill(self.viewers, signal.SIGCONT if watched else signal.SIGSTOP)
        time.sleep(SETTLE_SECONDS)
        (trainer,) = stop.pids
        before = (time.monotonic(), self.steps, cpu_seconds(trainer), self._own_seconds())
        time.sleep(INTERVAL_SECONDS)
        after = (time.monotonic(), self.steps, cpu_seconds(trainer), self._own_seconds())
        took, steps, cpu, own = (b - a for a, b in zip(before, after, strict=True))
        measured = Interval(
            rate=steps / took, cpu_per_step=cpu / max(1, steps), own_cores=own / took
        )
        self.intervals[watched].append(measured)

    def _own_seconds(self) -> float:
        return time.process_time() + cpu_seconds(self.server)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def train(seconds: float, run_dir: RunDir, alternation: Alternation) -> None:
    """The stand-in, followed as a run follows its trainer."""
    stop = StopRequest()
    thread = threading.Thread(target=alternation.alternate, args=(stop, seconds))
    thread.start()
    with EventLog(run_dir.path / "scratch.jsonl") as log:

        def on_event(event: Event) -> None:
            log.append(event)
            alternation.handle(event)

        spare = 2 * (SETTLE_SECONDS + INTERVAL_SECONDS) + 2
        argv = (sys.executable, "-c", TRAINER, str(seconds + spare), str(FIRST_STEP))
        follow(
            Command(argv=argv),
            read=parse_event,
            on_event=on_event,
            log=run_dir.engine_log,
            control=Control(environ={}, stop=stop, grace_seconds=5),
        )
    thread.join()


VIEWERS = """
import asyncio, os, random, sys, time, httpx
base, token, deadline, viewers = sys.argv[1], sys.argv[2], time.monotonic() + float(sys.argv[3]), 0
os.nice(5)
took = []
async def watch():
    await asyncio.sleep(random.random() * 2)
    headers = {"Authorization": "Bearer " + token}
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=120) as client:
        size, etag, looks = len((await client.get("/")).content), "", 0
        while time.monotonic() < deadline:
            try:
                began = time.perf_counter()
                answer = await client.get("/live.json", headers={"If-None-Match": etag})
            except httpx.HTTPError:
                break  # the server is stopped
            assert answer.status_code in (200, 304), answer
            took.append(time.perf_counter() - began)
            etag, looks = answer.headers.get("ETag", etag), looks + 1
            await asyncio.sleep(2)
        return size, looks
async def main():
    found = await asyncio.gather(*(watch() for _ in range(int(sys.argv[4]))))
    print(max(size for size, _ in found), min(looks for _, looks in found), *sorted(took))
asyncio.run(main())
"""


def page_process() -> int:
    """The PID of the process that serves the page."""
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"serve.process" in (each / "cmdline").read_bytes():
                return int(each.name)
    raise SystemExit("the page's process is not there")


def tiny_run(folder: Path) -> Prepared:
    settings = {"base_model": "tiny", "dataset": str(concept_dir()), "device": "cpu"}
    request = load_request(settings, {}, read_default_config=False)
    return prepare(request, {}, folder)


def pictures(folder: Path) -> SampleSet:
    """Sixty pictures that do not compress."""
    rng, images = random.Random(0), list[SampleImage]()
    for index in range(60):
        path = folder / f"{index}.png"
        Image.frombytes("RGB", (512, 512), rng.randbytes(3 * 512 * 512)).save(path)
        images.append(SampleImage(path=path, row=str(index // 6), column=str(index % 6)))
    return SampleSet(images=tuple(images))


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 150.0
    viewers = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    with TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder) / "run").create()
        long_run(run_dir)
        drawn, run = pictures(Path(folder)), tiny_run(Path(folder))
        budget = Budget(max_cost_usd=10, max_hours=None, price_per_hour=0.5)
        page = LivePage(prepared=run, run_dir=run_dir, emit=lambda event: None, budget=budget)
        page.add_samples(drawn)
        page.write()
        started = time.thread_time()
        page.write()
        written = time.thread_time() - started
        endpoint = page_endpoint("127.0.0.1", 0, (), None, {})
        with page, open_page(run_dir, endpoint) as at:
            words = (f"http://127.0.0.1:{at.port}", at.token, str(seconds), str(viewers))
            crowd = subprocess.Popen(
                (sys.executable, "-c", VIEWERS, *words), stdout=subprocess.PIPE, text=True
            )
            time.sleep(10)  # until each viewer has its page
            alternation = Alternation(page=page, viewers=crowd.pid, server=page_process())
            train(seconds - 10, run_dir, alternation)
            seen = crowd.communicate()[0]
    pairs = list(zip(alternation.intervals[True], alternation.intervals[False], strict=True))
    ratios = [watched.rate / alone.rate for watched, alone in pairs]
    cpu = [watched.cpu_per_step / alone.cpu_per_step for watched, alone in pairs]
    cores = [watched.own_cores - alone.own_cores for watched, alone in pairs]
    size, _, *updates = map(float, seen.split())
    reported = {
        "viewers": viewers,
        "page_bytes": int(size),
        "page_again_cpu_ms": round(1000 * written),
        "update_median_ms": round(1000 * statistics.median(updates), 2),
        "update_99th_ms": round(1000 * updates[len(updates) * 99 // 100], 2),
        "update_worst_ms": round(1000 * updates[-1], 2),
        "updates": len(updates),
        "cores_for_page_and_server": round(statistics.median(cores), 3),
        "step_ratios": [round(each, 3) for each in ratios],
        "step_ratio_median": round(statistics.median(ratios), 4),
        "trainer_cpu_per_step_ratio_median": round(statistics.median(cpu), 4),
        "load_of_this_machine": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(reported, indent=1))


if __name__ == "__main__":
    main()
