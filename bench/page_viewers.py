"""What a hundred viewers of a 20,000-step run cost: the page's size, the server's time, the run's.

    python bench/page_viewers.py [SECONDS] [VIEWERS]      120 s and 100 unless told

A stand-in for a trainer, a process of its own that computes without pause, tells of a step every
twentieth of a second or so; this process follows it as a run does (log, events, page). Turns with
the page and its viewers alternate with turns without either, and the ratio of their steps is told.
The page holds sixty pictures of noise, which do not compress. Viewers are a process of their own
at a lower priority (they would be other machines), and poll as the page's script does: every
two seconds, with the ETag of what they have. Server time is taken around the application, from
the request to the end of its answer. On a machine that does other work beside, the ratio of steps
tells of that work too; what page and server themselves take is told as a share of a core.

On two busy cores: page 2.2 MB; an update takes the server 4.6 ms (median of 1,200), 87 ms at worst;
page and server take 0.027 of a core. The ratio of steps, 0.74 to 1.19, told of the other work.
"""

import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from PIL import Image
from starlette.types import ASGIApp, Receive, Scope, Send

from tenner.budget import Budget
from tenner.engines import Command
from tenner.event_log import EventLog
from tenner.events import Event, Step, parse_event
from tenner.live_page import LivePage
from tenner.preparation import Prepared, prepare
from tenner.report.facts import SampleImage, SampleSet
from tenner.run_dir import RunDir
from tenner.serve import server
from tenner.serve.app import Served, make_app
from tenner.serve.server import make_door, open_page
from tenner.settings import load_request
from tenner.supervise import StopRequest, follow
from tenner.tiny import concept_dir

FIRST_STEP = 20_000
TURNS = 4
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


def long_run(place: RunDir) -> None:
    """The log of a run of `FIRST_STEP` steps."""
    with EventLog(place.events) as log:
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


def train(seconds: float, place: RunDir, page: LivePage | None) -> int:
    """Steps that the stand-in makes in `seconds`, followed as a run follows its trainer."""
    last = FIRST_STEP
    with EventLog(place.path / "scratch.jsonl") as log:

        def on_event(event: Event) -> None:
            nonlocal last
            log.append(event)
            if isinstance(event, Step):
                last = event.step
            if page:
                page.hear(event)

        follow(
            Command(argv=(sys.executable, "-c", TRAINER, str(seconds), str(FIRST_STEP))),
            read=parse_event,
            on_event=on_event,
            log=place.engine_log,
            environ={},
            stop=StopRequest(),
            grace_seconds=5,
        )
    return last - FIRST_STEP


VIEWERS = """
import asyncio, os, random, sys, time, httpx
base, token, until, viewers = sys.argv[1], sys.argv[2], time.monotonic() + float(sys.argv[3]), 0
os.nice(5)
async def watch():
    await asyncio.sleep(random.random() * 2)
    headers = {"Authorization": "Bearer " + token}
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=120) as client:
        size, etag, looks = len((await client.get("/")).content), "", 0
        while time.monotonic() < until:
            try:
                answer = await client.get("/live.json", headers={"If-None-Match": etag})
            except httpx.HTTPError:
                break  # the turn is over
            assert answer.status_code in (200, 304), answer
            etag, looks = answer.headers.get("ETag", etag), looks + 1
            await asyncio.sleep(2)
        return size, looks
async def main():
    found = await asyncio.gather(*(watch() for _ in range(int(sys.argv[4]))))
    print(max(size for size, _ in found), min(looks for _, looks in found))
asyncio.run(main())
"""


class Timed:
    """An application, and how long each of its answers took by path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.seconds: dict[str, list[float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        await self._app(scope, receive, send)
        self.seconds.setdefault(scope["path"], []).append(time.perf_counter() - started)


def tiny_run(folder: Path) -> Prepared:
    words = {"base_model": "tiny", "dataset": str(concept_dir()), "device": "cpu"}
    request = load_request(words, {}, read_default_config=False)
    return prepare(request, {}, folder, on_stage=lambda *_: None, on_image=lambda *_: None)


def pictures(folder: Path) -> SampleSet:
    """Sixty pictures that do not compress."""
    chance, images = random.Random(0), list[SampleImage]()
    for place in range(60):
        path = folder / f"{place}.png"
        Image.frombytes("RGB", (512, 512), chance.randbytes(3 * 512 * 512)).save(path)
        images.append(SampleImage(path=path, row=str(place // 6), column=str(place % 6)))
    return SampleSet(images=tuple(images))


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    viewers = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    turn = seconds / (2 * TURNS)
    ratios: list[float] = []
    cores: list[float] = []
    apps: list[Timed] = []
    seen: list[str] = []

    def timed(served: Served) -> ASGIApp:
        apps.append(Timed(make_app(served)))
        return apps[-1]

    with TemporaryDirectory() as folder:
        place = RunDir(Path(folder) / "run").create()
        long_run(place)
        drawn, run = pictures(Path(folder)), tiny_run(Path(folder))
        budget = Budget(max_cost_usd=10, max_hours=None, price_per_hour=0.5)
        written = 0.0
        for _ in range(TURNS):
            busy = time.process_time()
            alone = train(turn, place, None)
            before = time.process_time() - busy
            page = LivePage(prepared=run, place=place, tell=lambda event: None, budget=budget)
            page.add_samples(drawn)
            page.write()
            started = time.thread_time()
            page.write()
            written = time.thread_time() - started
            door = make_door("127.0.0.1", 0, (), None, {})
            with page, mock.patch.object(server, "make_app", timed), open_page(place, door) as at:
                words = (f"http://127.0.0.1:{at.port}", at.token, str(turn), str(viewers))
                crowd = subprocess.Popen(
                    (sys.executable, "-c", VIEWERS, *words), stdout=subprocess.PIPE, text=True
                )
                busy = time.process_time()
                ratios.append(train(turn, place, page) / alone)
                cores.append((time.process_time() - busy - before) / turn)
                seen.append(crowd.communicate()[0])
    updates = sorted(each for app in apps for each in app.seconds.get("/live.json", ()))
    pages = sorted(each for app in apps for each in app.seconds.get("/", ()))
    told = {
        "viewers": viewers,
        "page_bytes": int(seen[0].split()[0]),
        "page_again_cpu_ms": round(1000 * written),
        "page_server_median_ms": round(1000 * statistics.median(pages), 2),
        "update_server_median_ms": round(1000 * statistics.median(updates), 2),
        "update_server_99th_ms": round(1000 * updates[len(updates) * 99 // 100], 2),
        "update_server_worst_ms": round(1000 * updates[-1], 2),
        "updates": len(updates),
        "cores_for_page_and_server": round(statistics.median(cores), 3),
        "step_ratios": [round(each, 3) for each in ratios],
        "step_ratio_median": round(statistics.median(ratios), 4),
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
