"""Runs that are killed or disturbed at random points, and whether each ends as it should.

    python -m bench.chaos [--runs 100] [--kills 3] [--seed 1] [--stand-in] [--progress FILE]
        [--seconds 600]

Each run trains the tiny base (with --stand-in: a stand-in for sd-scripts) to an S3 server on
loopback that fails now and then (5 % errors, 2 % cut connections), and is killed up to `kills`
times with SIGKILL at a random moment: while it checks, loads, trains, saves or delivers. A moment
is one of the undisturbed run's, found again by the lines in the log, so that a busy machine moves
no kill towards the beginning. It is started again in the same directory, or on an empty machine
that knows only the destination.
On top of that each run has a trouble of its own, in turn:

- kills: none more;
- trainer kills: the trainer alone is killed, while its supervisor lives;
- full disk: its disk fills at a random moment, and has space again at the next start;
- refused deletes: the server answers each DELETE with 403;
- slow down 20, 40, 60: that share of all requests is answered 503 SlowDown;
- expired token: from a random moment on every request is refused until the next start;
- half-open sockets: its page is served, and 300 connections send it half a request;
- folder wiped: it is sent to a folder, all of which is removed at a random moment.

Every run has to end delivered, with every step exactly once in its curve, weights equal to those of
an undisturbed run, nothing at the destination that is not what its manifest says, a ledger whose
attempts add up to the run, whole lines in its log, and nothing left behind in its directory, at a
folder destination and in the folder for temporary files. With --progress each run's history is
written as it ends, and a later start does only those that are missing; --seconds begins no run
later.
"""

import argparse
import bisect
import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

_TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(_TESTS / "run"), str(_TESTS / "delivery")]

from program import Machine, StandIn, same_weights, trainer_of  # noqa: E402
from servers.fault_proxy import Proxy, SeenRequest, Spoil, fault_proxy  # noqa: E402
from servers.s3_servers import KEY_ID, SECRET_KEY, moto_server, s3_client  # noqa: E402
from small_disk import fill, small_disk  # noqa: E402

BUCKET = "chaos"
STEPS = 20
WORDS = ("--max_train_steps", str(STEPS), "--save_every_n_steps", "3")
ERRORS, CUTS = 0.05, 0.02
FINAL = "checkpoints/star.safetensors"
TOKEN = "chaos-token-0123456789"
Trouble = Literal[
    "kills",
    "trainer kills",
    "full disk",
    "refused deletes",
    "slow down 20",
    "slow down 40",
    "slow down 60",
    "expired token",
    "half-open sockets",
    "folder wiped",
]
TROUBLES: tuple[Trouble, ...] = get_args(Trouble)
LAST_STARTS = 5
"""How often a run is started without a kill until it is delivered."""
START_SECONDS = 400.0
LEAST_SHARE_OF_A_RESUMED = 0.5
"""Of the undisturbed run's time: what a start takes that has only its delivery left to do."""
CACHES_OF_LIBRARIES = "torchinductor_"
"""Torch makes one folder for each user in the temporary folder, for all programs: no run's own."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """So many seconds after that many lines have come into the log."""

    lines: int
    seconds: float


@dataclass(kw_only=True)
class Pace:
    """The undisturbed run: when each line came into its log, and when it ended, in seconds."""

    lines: list[float] = field(default_factory=list[float])
    total: float = 0.0

    def moment(self, share: float) -> Moment:
        """When this share of the undisturbed run's time had passed."""
        at = share * self.total
        before = bisect.bisect_right(self.lines, at)
        return Moment(lines=before, seconds=at - (self.lines[before - 1] if before else 0.0))


class Clock:
    """Tells when a moment of a start has come. `log` may not be there yet."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._before = self._num_lines()
        self._since = [time.monotonic()]

    def has_come(self, moment: Moment) -> bool:
        now = time.monotonic()
        more = self._num_lines() - self._before - (len(self._since) - 1)
        self._since += [now] * more
        return len(self._since) > moment.lines and (
            now >= self._since[moment.lines] + moment.seconds
        )

    def seconds(self) -> list[float]:
        """When each line came, from the start."""
        return [each - self._since[0] for each in self._since[1:]]

    def _num_lines(self) -> int:
        return self._log.read_bytes().count(b"\n") if self._log.is_file() else 0


@dataclass
class Attempt:
    """One start: what it was doing when it was killed (empty: it ended by itself)."""

    killed_while: str
    on_empty: bool
    seconds: float


@dataclass
class History:
    """How a run went. `wrong` is empty where all held; `ledger_steps` is what the attempts in
    the ledger add up to, `left` what was left behind."""

    trouble: Trouble
    attempts: list[Attempt] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    steps_trained: int = 0
    trainer_kills: int = 0
    codes: list[int] = field(default_factory=list)
    ledger_steps: int = 0
    left: list[str] = field(default_factory=list)
    is_equal: bool = False

    def __str__(self) -> str:
        cut = ", ".join(
            f"{attempt.killed_while}{' (empty machine)' if attempt.on_empty else ''}"
            for attempt in self.attempts
            if attempt.killed_while
        )
        return f"{self.trouble}; killed while {cut}: {'; '.join(self.wrong) or 'all held'}"


@dataclass
class Faults:
    """What the server does to requests now."""

    chance: random.Random
    slow_down: float = 0.0
    refuses_deletes: bool = False
    is_expired: bool = False

    def __call__(self, sent: SeenRequest) -> Spoil | None:
        throw = self.chance.random()
        deletes = sent.method == "DELETE" or (sent.method == "POST" and "?delete" in sent.path)
        if self.is_expired:
            return _refusal(400, "ExpiredToken")
        if self.refuses_deletes and deletes:
            return _refusal(403, "AccessDenied")
        if throw < self.slow_down:
            return _refusal(503, "SlowDown")
        if throw < self.slow_down + ERRORS:
            return Spoil(status=500)
        return Spoil(cut=True) if throw < self.slow_down + ERRORS + CUTS else None


def _refusal(status: int, code: str) -> Spoil:
    return Spoil(status=status, body=f"<Error><Code>{code}</Code><Message>{code}</Message></Error>")


class Chaos:
    """Machines, a server that fails now and then, and an undisturbed run to compare with."""

    def __init__(self, folder: Path, proxy: Proxy, server_port: int, *, stand_in: bool) -> None:
        self.folder = folder
        self.stand_in = stand_in
        self.proxy = proxy
        self.client = s3_client(server_port)
        self.client.create_bucket(Bucket=BUCKET)
        self.whole = self.machine(folder / "whole")
        to = f"s3://{BUCKET}/whole?endpoint_url=http://127.0.0.1:{server_port}"
        started, clock = time.monotonic(), Clock(self.whole.run("star") / "events.jsonl")
        process = self.whole.start(*self.whole.train("star", *WORDS, "--destinations", to))
        never = Moment(lines=sys.maxsize, seconds=0)
        while process.poll() is None and time.monotonic() < started + START_SECONDS:
            clock.has_come(never)
            time.sleep(0.01)
        assert process.poll() == 0, self.whole.output
        self.pace = Pace(lines=clock.seconds(), total=time.monotonic() - started)

    def machine(self, folder: Path) -> Machine:
        temporary = folder / "tmp"
        temporary.mkdir(parents=True)
        keys = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        keys |= {"TMPDIR": str(temporary), "TENNER_SERVE_TOKEN": TOKEN}
        if self.stand_in:
            return StandIn(folder, STAND_IN_SECONDS="0.05", **keys)
        return Machine(folder, **keys)

    def run(self, number: int, kills: int, dice: random.Random) -> History:
        """One run from its first start to its delivery."""
        history, here = (
            History(trouble=TROUBLES[number % len(TROUBLES)]),
            self.folder / f"run-{number}",
        )
        here.mkdir()
        with contextlib.ExitStack() as stack:
            if history.trouble == "full disk":
                stack.enter_context(small_disk(here / "disk", 300))
            return Trial(self, number, history, here, dice).run(kills)


@dataclass
class Trial:
    """One run of the bench: its machines, its trouble, its history."""

    chaos: Chaos
    number: int
    history: History
    here: Path
    dice: random.Random

    def __post_init__(self) -> None:
        is_small = self.history.trouble == "full disk"
        self.disk = self.here / "disk" if is_small else self.here
        self.machine = self.chaos.machine(self.disk / "machine-0")
        self.folder_destination = (
            self.here / "destination" if self.history.trouble == "folder wiped" else None
        )
        self.prefix = f"run-{self.number}/"
        endpoint = f"?endpoint_url=http://127.0.0.1:{self.chaos.proxy.port}"
        to = (
            f"file://{self.folder_destination}"
            if self.folder_destination
            else f"s3://{BUCKET}/run-{self.number}{endpoint}"
        )
        words = (*WORDS, "--destinations", to)
        if self.chaos.stand_in:
            words = (*words, "--network_dim", "1")  # the plan's sizes are of a real base
        if self.history.trouble == "half-open sockets":
            words = (*words, "--serve", "true", "--serve_port", "0")
        self.words = words
        self.faults = Faults(self.dice)
        self.chaos.proxy.fault = self.faults
        self.sockets: list[socket.socket] = []

    def run(self, kills: int) -> History:
        trouble, history = self.history.trouble, self.history
        self.faults.refuses_deletes = trouble == "refused deletes"
        if trouble.startswith("slow down"):
            self.faults.slow_down = int(trouble.rpartition(" ")[2]) / 100
        for move in range(self.dice.randint(1, kills)):
            on_empty = (
                bool(history.attempts) and self.dice.random() < 0.5 and trouble != "folder wiped"
            )
            if on_empty:
                self._count()
                shutil.rmtree(self.machine.folder)
                self.machine = self.chaos.machine(self.disk / f"machine-{move}")
            left = 1 - len({each["step"] for each in self._steps()}) / STEPS
            longest = LEAST_SHARE_OF_A_RESUMED + (1 - LEAST_SHARE_OF_A_RESUMED) * left
            share = self.dice.uniform(0.02, 1.0) * (longest if history.attempts else 1.0)
            history.attempts.append(self._killed_attempt(share, on_empty=on_empty))
        for _ in range(LAST_STARTS):
            code = self._last_start()
            history.codes.append(code)
            self.faults.is_expired = False
            (self.disk / "filler").unlink(missing_ok=True)
            if code == 0:
                break
        if history.codes[-1]:
            history.wrong.append(f"exit codes {history.codes}: {self.machine.output[-2000:]}")
        else:
            self._check()
        self._count()
        for each in self.sockets:
            each.close()
        shutil.rmtree(self.machine.folder)
        return history

    def _killed_attempt(self, share: float, *, on_empty: bool) -> Attempt:
        """One start that is killed at its moment, with its trouble somewhere before."""
        kill = self.chaos.pace.moment(share)
        strike = self.chaos.pace.moment(self.dice.uniform(0.0, 1.0) * share)
        started, clock = time.monotonic(), Clock(self._log)
        process = self.machine.start(*self.machine.train("star", *self.words))
        is_due = True
        while process.poll() is None and not clock.has_come(kill):
            if is_due and clock.has_come(strike):
                is_due = False
                self._strike(process)
            if time.monotonic() > started + START_SECONDS:
                self.history.wrong.append(f"a start did not end within {START_SECONDS:.0f} s")
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        code = process.wait(60)
        self.faults.is_expired = False
        (self.disk / "filler").unlink(missing_ok=True)
        return Attempt(self._doing(code), on_empty=on_empty, seconds=time.monotonic() - started)

    def _last_start(self) -> int:
        """One start that is not killed; its first one meets the trouble too."""
        strike = self.chaos.pace.moment(self.dice.uniform(0.0, 1.0))
        started, clock = time.monotonic(), Clock(self._log)
        process = self.machine.start(*self.machine.train("star", *self.words))
        is_due = not self.history.codes
        while process.poll() is None:
            if is_due and clock.has_come(strike):
                is_due = False
                self._strike(process)
            if time.monotonic() > started + START_SECONDS:
                self.history.wrong.append(f"it did not end within {START_SECONDS:.0f} s")
                process.kill()
                break
            time.sleep(0.02)
        code = process.wait(60)
        self.history.attempts.append(
            Attempt("", on_empty=False, seconds=time.monotonic() - started)
        )
        return code

    @property
    def _log(self) -> Path:
        return self.machine.run("star") / "events.jsonl"

    def _steps(self) -> list[dict[str, Any]]:
        return self.machine.events("star", "step")

    def _strike(self, process: subprocess.Popen[bytes]) -> None:
        match self.history.trouble:
            case "trainer kills":
                if trainer := trainer_of(process.pid):
                    os.kill(trainer, signal.SIGKILL)
                    self.history.trainer_kills += 1
            case "full disk":
                fill(self.disk)
            case "expired token":
                self.faults.is_expired = True
            case "folder wiped" if self.folder_destination and self.folder_destination.is_dir():
                ledger = self.machine.run("star") / "ledger.json"  # not there before it trains
                if ledger.is_file() and self.machine.ledger("star")["delivered_to"]:
                    return  # what is removed after it was verified is not the program's to repair
                for each in self.folder_destination.iterdir():
                    shutil.rmtree(each, ignore_errors=True)
                    each.unlink(missing_ok=True) if each.is_file() else None
            case "half-open sockets":
                output = self.machine.output.rpartition("http://127.0.0.1:")[2].partition("/")[0]
                if output.isdigit():
                    self._hold_connections(int(output))
            case _:
                pass

    def _hold_connections(self, port: int) -> None:
        for _ in range(300):
            with contextlib.suppress(OSError):
                each = socket.create_connection(("127.0.0.1", port), 1)
                self.sockets.append(each)
                each.sendall(b"GET / HTTP/1.1\r\nHost: ")

    def _doing(self, code: int) -> str:
        if code != -signal.SIGKILL:
            return "nothing, for it was over"
        events = self.machine.events("star")
        kinds = [each for each in events if each["event"] in ("phase", "step", "state", "sent")]
        last = kinds[-1] if kinds else {"event": "phase", "name": "starting"}
        return last.get("name") or {"step": "training"}.get(last["event"], "saving and sending")

    def _count(self) -> None:
        found = len(self._steps())
        self.history.steps_trained = max(self.history.steps_trained, found)

    def _check(self) -> None:
        history, run = self.history, self.machine.run("star")
        ledger = self.machine.ledger("star")
        history.ledger_steps = sum(
            each["last_step"] - each["first_step"] for each in ledger["lives"]
        )
        if any(each["last_step"] < each["first_step"] for each in ledger["lives"]):
            history.wrong.append("an attempt ends before it begins")
        if history.ledger_steps != STEPS:
            history.wrong.append(f"the attempts add up to {history.ledger_steps} steps")
        if ledger["finished"]["file"]["step"] != STEPS:
            history.wrong.append(f"ended at step {ledger['finished']['file']['step']}")
        if not ledger["delivered_to"]:
            history.wrong.append("not delivered")
        for line in (run / "events.jsonl").read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                json.loads(line)
                continue
            history.wrong.append(f"a torn line in its log: {line[:80]!r}")
        if (run / FINAL).is_file():  # not so on an empty machine after all was delivered
            reported = {each["step"] for each in self._steps()}
            if reported != set(range(1, STEPS + 1)):
                history.wrong.append(f"its curve holds the steps {sorted(reported)}")
            if not same_weights(run / FINAL, self.chaos.whole.run("star") / FINAL):
                history.wrong.append("other weights than the undisturbed run")
        self._check_destination()
        history.left = self._left()
        history.wrong += [f"left behind: {each}" for each in history.left]

    def _left(self) -> list[str]:
        run, temporary = self.machine.run("star"), self.machine.folder / "tmp"
        found = [*run.rglob("*.part"), *temporary.iterdir(), *run.glob("outbox"), run / ".reserved"]
        found += self.folder_destination.rglob("*.part") if self.folder_destination else []
        names = [each.name for each in found if each.exists()]
        return [name for name in names if not name.startswith(CACHES_OF_LIBRARIES)]

    def _check_destination(self) -> None:
        names, history = self._names(), self.history
        if "manifest.json" not in names:
            history.wrong.append("no manifest at the destination")
            return
        for entry in json.loads(self._content("manifest.json"))["files"]:
            content = self._content(entry["name"]) if entry["name"] in names else b""
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                history.wrong.append(f"{entry['name']} at the destination is not what was sent")
        fetched = self.chaos.folder / "fetched.safetensors"
        fetched.write_bytes(self._content("star.safetensors"))
        history.is_equal = same_weights(fetched, self.chaos.whole.run("star") / FINAL)
        if not history.is_equal:
            history.wrong.append("the delivered weights are other ones than the undisturbed run's")

    def _names(self) -> set[str]:
        if self.folder_destination:
            files = [path for path in self.folder_destination.rglob("*") if path.is_file()]
            return {path.relative_to(self.folder_destination).as_posix() for path in files}
        client = self.chaos.client
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=self.prefix).get("Contents", [])
        return {each["Key"].removeprefix(self.prefix) for each in listed}

    def _content(self, name: str) -> bytes:
        if self.folder_destination:
            return (self.folder_destination / name).read_bytes()
        found = self.chaos.client.get_object(Bucket=BUCKET, Key=self.prefix + name)
        return found["Body"].read()


def chaos(
    runs: int,
    kills: int,
    seed: int,
    *,
    stand_in: bool,
    progress: Path | None = None,
    seconds: float = float("inf"),
) -> list[History]:
    """All histories, printed as they end; those in the file `progress` are not run again."""
    histories = read_histories(progress) if progress else {}
    missing = [number for number in range(runs) if number not in histories]
    until = time.monotonic() + seconds
    if not missing:
        return list(histories.values())
    with (
        TemporaryDirectory(prefix="tenner-chaos-") as folder,
        moto_server(Path(folder)) as server_port,
        fault_proxy(server_port) as proxy,
    ):
        bench = Chaos(Path(folder), proxy, server_port, stand_in=stand_in)
        for number in missing:
            if time.monotonic() > until:
                break
            histories[number] = bench.run(number, kills, random.Random(f"{seed}/{number}"))
            print(f"run {number}: {histories[number]}", flush=True)
            if progress:
                with progress.open("a") as file:
                    file.write(json.dumps({"run": number, **asdict(histories[number])}) + "\n")
    return list(histories.values())


def read_histories(progress: Path) -> dict[int, History]:
    """The histories of earlier starts, by the number of the run."""
    found: dict[int, History] = {}
    for line in progress.read_text().splitlines() if progress.is_file() else []:
        saved = json.loads(line)
        number, attempts = (
            saved.pop("run"),
            [Attempt(**attempt) for attempt in saved.pop("attempts")],
        )
        found[number] = History(attempts=attempts, **saved)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stand-in", action="store_true", dest="stand_in")
    parser.add_argument("--progress", type=Path, help="file of the histories so far")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run later")
    arguments = parser.parse_args()
    histories = chaos(
        arguments.runs,
        arguments.kills,
        arguments.seed,
        stand_in=arguments.stand_in,
        progress=arguments.progress,
        seconds=arguments.seconds,
    )
    print(table(histories))
    return 0 if all(not history.wrong for history in histories) else 1


def table(histories: list[History]) -> str:
    """The results, by trouble and in all, as a table in Markdown."""
    heads = ("trouble", "runs", "held", "kills", "trainer kills", "empty machines", "bit-equal")
    heads = (*heads, "left behind", "ledger adds up")
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for trouble in (*TROUBLES, "all"):
        found = [each for each in histories if trouble in (each.trouble, "all")]
        attempts = [attempt for history in found for attempt in history.attempts]
        numbers = (
            len(found),
            sum(not each.wrong for each in found),
            sum(
                attempt.killed_while not in ("", "nothing, for it was over") for attempt in attempts
            ),
            sum(each.trainer_kills for each in found),
            sum(attempt.on_empty for attempt in attempts),
            sum(each.is_equal for each in found),
            sum(len(each.left) for each in found),
            sum(each.ledger_steps == STEPS for each in found),
        )
        lines.append(f"| {trouble} | {' | '.join(map(str, numbers))} |")
    doing = collections.Counter(
        attempt.killed_while
        for history in histories
        for attempt in history.attempts
        if attempt.killed_while
    )
    return "\n".join([*lines, "", f"killed while: {dict(doing.most_common())}"])


if __name__ == "__main__":
    sys.exit(main())
