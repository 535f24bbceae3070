"""Runs that are killed with SIGKILL at random points, and what becomes of them.

    python -m bench.chaos [--runs 50] [--kills 3] [--seed 1] [--stand-in] [--progress FILE]

Each run trains the tiny base (with --stand-in: a stand-in for sd-scripts) to an S3 server on
loopback that fails now and then (5 % errors, 2 % cut connections), and is killed up to `kills`
times at a random moment of its usual time: while it checks, trains, saves or delivers. It is
started again in the same directory, or on an empty machine that knows only the destination. Every
run has to end delivered, with every step exactly once in its curve, weights equal to those of an
undisturbed run, and nothing at the destination that is not what its manifest says. With
--progress each run's story is kept, and a later start does only those that are missing.

Measured with real training (seed 1, on two busy cores, 19 seconds a run): 50 of 50 runs held. 115
kills were thrown, counting those at a life that was just over: 38 while the trainer loaded, 22 at
the checks, 21 in training, 18 at the delivery, 13 while it saved and sent, 2 at the dataset and 1
while it encoded pictures; 39 lives began on an empty machine.
"""

import argparse
import collections
import hashlib
import json
import random
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

_TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(_TESTS / "run"), str(_TESTS / "delivery")]

from program import Machine, StandIn, same_weights  # noqa: E402
from servers.fault_proxy import Asked, Spoil, fault_proxy  # noqa: E402
from servers.s3_servers import KEY_ID, SECRET_KEY, moto_server, s3_client  # noqa: E402

BUCKET = "chaos"
STEPS = 20
WORDS = ("--max_train_steps", str(STEPS), "--save_every_n_steps", "3")
ERRORS, CUTS = 0.05, 0.02
FINAL = "checkpoints/star.safetensors"


@dataclass
class Life:
    """One start: what it was doing when it was killed (empty: it ended by itself)."""

    killed_while: str
    on_empty: bool
    seconds: float


@dataclass
class Story:
    """What became of a run. `wrong` is empty where all held."""

    lives: list[Life] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    steps_trained: int = 0

    def __str__(self) -> str:
        cut = ", ".join(
            f"{life.killed_while}{' (empty machine)' if life.on_empty else ''}"
            for life in self.lives[:-1]
        )
        return f"killed while {cut}: {'; '.join(self.wrong) or 'all held'}"


class Chaos:
    """Machines, a server that fails now and then, and an undisturbed run to compare with."""

    def __init__(self, folder: Path, port: int, server_port: int, *, stand_in: bool) -> None:
        self.folder = folder
        self.stand_in = stand_in
        self.endpoint = f"http://127.0.0.1:{port}"
        self.client = s3_client(server_port)
        self.client.create_bucket(Bucket=BUCKET)
        self.whole = self.machine(folder / "whole")
        started = time.monotonic()
        to = f"s3://{BUCKET}/whole?endpoint_url=http://127.0.0.1:{server_port}"
        code = self.whole.finish(*self.whole.train("star", *WORDS, "--destinations", to))
        assert code == 0, self.whole.said
        self.usual_seconds = time.monotonic() - started

    def machine(self, folder: Path) -> Machine:
        keys = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        if self.stand_in:
            return StandIn(folder, STAND_IN_SECONDS="0.05", **keys)
        return Machine(folder, **keys)

    def run(self, number: int, kills: int, dice: random.Random) -> Story:
        """One run from its first start to its delivery."""
        story, here = Story(), self.folder / f"run-{number}"
        machine, moves = self.machine(here / "machine-0"), 0
        to = f"s3://{BUCKET}/run-{number}?endpoint_url={self.endpoint}"
        for _ in range(dice.randint(1, kills)):
            on_empty = bool(story.lives) and dice.random() < 0.5
            if on_empty:
                self._count(machine, story)
                shutil.rmtree(machine.folder)
                moves += 1
                machine = self.machine(here / f"machine-{moves}")
            life = self._live(machine, to, dice.uniform(0.05, 1.1) * self.usual_seconds, on_empty)
            story.lives.append(life)
        started = time.monotonic()
        code = machine.finish(*machine.train("star", *WORDS, "--destinations", to))
        story.lives.append(Life("", on_empty=False, seconds=time.monotonic() - started))
        story.wrong += [f"exit code {code}: {machine.said[-2000:]}"] if code else []
        story.wrong += [] if code else self._judge(machine, number)
        self._count(machine, story)
        shutil.rmtree(here)
        return story

    def _live(self, machine: Machine, to: str, seconds: float, on_empty: bool) -> Life:
        until = time.monotonic() + seconds
        started = time.monotonic()
        code = machine.cut(
            machine.train("star", *WORDS, "--destinations", to),
            lambda: time.monotonic() > until,
            signal.SIGKILL,
        )
        events = machine.events("star")
        kinds = [each for each in events if each["event"] in ("phase", "step", "state", "sent")]
        last = kinds[-1] if kinds else {"event": "phase", "name": "starting"}
        if code != -signal.SIGKILL:
            last = {"event": "phase", "name": "nothing, for it was over"}
        doing = last.get("name") or {"step": "training"}.get(last["event"], "saving and sending")
        return Life(doing, on_empty=on_empty, seconds=time.monotonic() - started)

    def _count(self, machine: Machine, story: Story) -> None:
        story.steps_trained = max(story.steps_trained, len(machine.events("star", "step")))

    def _judge(self, machine: Machine, number: int) -> list[str]:
        wrong: list[str] = []
        ledger = machine.ledger("star")
        if ledger["finished"]["file"]["step"] != STEPS:
            wrong.append(f"ended at step {ledger['finished']['file']['step']}")
        if not ledger["delivered_to"]:
            wrong.append("not delivered")
        told = {each["step"] for each in machine.events("star", "step")}
        if (machine.run("star") / FINAL).is_file():  # an empty machine after all was delivered
            if told != set(range(1, STEPS + 1)):
                wrong.append(f"its curve holds the steps {sorted(told)}")
            if not same_weights(machine.run("star") / FINAL, self.whole.run("star") / FINAL):
                wrong.append("other weights than the undisturbed run")
        return wrong + self._judge_destination(number)

    def _judge_destination(self, number: int) -> list[str]:
        prefix = f"run-{number}/"
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        names = {each["Key"].removeprefix(prefix) for each in listed}
        if "manifest.json" not in names:
            return ["no manifest at the destination"]
        wrong: list[str] = []
        for entry in json.loads(self._object(prefix + "manifest.json"))["files"]:
            content = self._object(prefix + entry["name"]) if entry["name"] in names else b""
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                wrong.append(f"{entry['name']} at the destination is not what was sent")
        final = self.whole.run("star") / FINAL
        (self.folder / "fetched.safetensors").write_bytes(self._object(prefix + "star.safetensors"))
        if not same_weights(self.folder / "fetched.safetensors", final):
            wrong.append("the delivered weights are other ones than the undisturbed run's")
        return wrong

    def _object(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def chaos(
    runs: int, kills: int, seed: int, *, stand_in: bool, progress: Path | None = None
) -> list[Story]:
    """All stories, told as they end; those in the file `progress` are not lived again."""
    told = read_stories(progress) if progress else {}
    missing = [number for number in range(runs) if number not in told]
    faults = random.Random(seed + 1)

    def fault(asked: Asked) -> Spoil | None:
        del asked
        throw = faults.random()
        if throw < ERRORS:
            return Spoil(status=500)
        return Spoil(cut=True) if throw < ERRORS + CUTS else None

    if not missing:
        return list(told.values())
    with (
        TemporaryDirectory(prefix="tenner-chaos-") as folder,
        moto_server(Path(folder)) as server_port,
        fault_proxy(server_port) as proxy,
    ):
        proxy.fault = fault
        all_of_it = Chaos(Path(folder), proxy.port, server_port, stand_in=stand_in)
        for number in missing:
            told[number] = all_of_it.run(number, kills, random.Random(f"{seed}/{number}"))
            print(f"run {number}: {told[number]}", flush=True)
            if progress:
                with progress.open("a") as file:
                    file.write(json.dumps({"run": number, **asdict(told[number])}) + "\n")
    return list(told.values())


def read_stories(progress: Path) -> dict[int, Story]:
    """The stories that an earlier start has kept, by the number of the run."""
    found: dict[int, Story] = {}
    for line in progress.read_text().splitlines() if progress.is_file() else []:
        kept = json.loads(line)
        number, lives = kept.pop("run"), [Life(**life) for life in kept.pop("lives")]
        found[number] = Story(lives=lives, **kept)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stand-in", action="store_true", dest="stand_in")
    parser.add_argument("--progress", type=Path, help="file of the stories so far")
    asked = parser.parse_args()
    stories = chaos(
        asked.runs, asked.kills, asked.seed, stand_in=asked.stand_in, progress=asked.progress
    )
    lives = [life for story in stories for life in story.lives[:-1]]
    doing = collections.Counter(life.killed_while for life in lives)
    good = sum(not story.wrong for story in stories)
    print(f"{good} of {len(stories)} runs held; {len(lives)} kills: {dict(doing.most_common())}")
    print(f"starts on an empty machine: {sum(life.on_empty for life in lives)}")
    return 0 if good == len(stories) else 1


if __name__ == "__main__":
    sys.exit(main())
