"""One run, from its first start to its delivery, and the checks of what it delivered."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from program import same_weights, trainer_of
from small_disk import fill

from bench.chaos.environment import ARGUMENTS, BUCKET, START_SECONDS, Environment
from bench.chaos.faults import Faults
from bench.chaos.history import ALREADY_ENDED, STEPS, Attempt, History
from bench.chaos.moments import Clock

FINAL = "checkpoints/star.safetensors"
LAST_STARTS = 5
"""How often a run is started without a kill until it is delivered."""
LEAST_SHARE_OF_A_RESUMED = 0.5
"""Of the undisturbed run's time: what a start takes that has only its delivery left to do."""
CACHES_OF_LIBRARIES = "torchinductor_"
"""Torch makes one folder for each user in the temporary folder, for all programs: no run's own."""


@dataclass
class Trial:
    """One run of the bench: its machines, its trouble and its history."""

    environment: Environment
    number: int
    history: History
    folder: Path
    rng: random.Random

    def __post_init__(self) -> None:
        is_small = self.history.trouble == "full disk"
        self.disk = self.folder / "disk" if is_small else self.folder
        self.machine = self.environment.machine(self.disk / "machine-0")
        self.folder_destination = (
            self.folder / "destination" if self.history.trouble == "folder wiped" else None
        )
        self.prefix = f"run-{self.number}/"
        endpoint = f"?endpoint_url=http://127.0.0.1:{self.environment.proxy.port}"
        to = (
            f"file://{self.folder_destination}"
            if self.folder_destination
            else f"s3://{BUCKET}/run-{self.number}{endpoint}"
        )
        arguments = (*ARGUMENTS, "--destinations", to)
        if self.environment.stand_in:
            arguments = (*arguments, "--network_dim", "1")  # the plan's sizes are of a real base
        if self.history.trouble == "half-open sockets":
            arguments = (*arguments, "--serve", "true", "--serve_port", "0")
        self.arguments = arguments
        self.faults = Faults(self.rng)
        self.environment.proxy.fault = self.faults
        self.sockets: list[socket.socket] = []

    def run(self, kills: int) -> History:
        trouble, history = self.history.trouble, self.history
        self.faults.refuses_deletes = trouble == "refused deletes"
        if trouble.startswith("slow down"):
            self.faults.slow_down = int(trouble.rpartition(" ")[2]) / 100
        for index in range(self.rng.randint(1, kills)):
            on_empty = (
                bool(history.attempts) and self.rng.random() < 0.5 and trouble != "folder wiped"
            )
            if on_empty:
                self._count_steps()
                shutil.rmtree(self.machine.folder)
                self.machine = self.environment.machine(self.disk / f"machine-{index}")
            untrained = 1 - len({each["step"] for each in self._steps()}) / STEPS
            longest = LEAST_SHARE_OF_A_RESUMED + (1 - LEAST_SHARE_OF_A_RESUMED) * untrained
            share = self.rng.uniform(0.02, 1.0) * (longest if history.attempts else 1.0)
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
        self._count_steps()
        for each in self.sockets:
            each.close()
        shutil.rmtree(self.machine.folder)
        return history

    def _killed_attempt(self, share: float, *, on_empty: bool) -> Attempt:
        """Start it and kill it after a share of the undisturbed time, with its trouble before."""
        kill = self.environment.pace.moment(share)
        trouble_moment = self.environment.pace.moment(self.rng.uniform(0.0, 1.0) * share)
        started, clock = time.monotonic(), Clock(self._log)
        process = self.machine.start(*self.machine.train("star", *self.arguments))
        trouble_is_due = True
        while process.poll() is None and not clock.has_passed(kill):
            if trouble_is_due and clock.has_passed(trouble_moment):
                trouble_is_due = False
                self._cause_trouble(process)
            if time.monotonic() > started + START_SECONDS:
                self.history.wrong.append(f"a start did not end within {START_SECONDS:.0f} s")
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        code = process.wait(60)
        self.faults.is_expired = False
        (self.disk / "filler").unlink(missing_ok=True)
        return Attempt(self._phase(code), on_empty=on_empty, seconds=time.monotonic() - started)

    def _last_start(self) -> int:
        """Start it, wait, and return its exit code. The first of these starts has the trouble."""
        trouble_moment = self.environment.pace.moment(self.rng.uniform(0.0, 1.0))
        started, clock = time.monotonic(), Clock(self._log)
        process = self.machine.start(*self.machine.train("star", *self.arguments))
        trouble_is_due = not self.history.codes
        while process.poll() is None:
            if trouble_is_due and clock.has_passed(trouble_moment):
                trouble_is_due = False
                self._cause_trouble(process)
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

    def _cause_trouble(self, process: subprocess.Popen[bytes]) -> None:
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
                    return  # what is removed after it was verified the program cannot repair
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

    def _phase(self, code: int) -> str:
        if code != -signal.SIGKILL:
            return ALREADY_ENDED
        events = self.machine.events("star")
        kinds = [each for each in events if each["event"] in ("phase", "step", "state", "sent")]
        last = kinds[-1] if kinds else {"event": "phase", "name": "starting"}
        return last.get("name") or {"step": "training"}.get(last["event"], "saving and sending")

    def _count_steps(self) -> None:
        found = len(self._steps())
        self.history.steps_trained = max(self.history.steps_trained, found)

    def _check(self) -> None:
        history, run = self.history, self.machine.run("star")
        ledger = self.machine.ledger("star")
        history.ledger_steps = sum(
            each["last_step"] - each["first_step"] for each in ledger["attempts"]
        )
        if any(each["last_step"] < each["first_step"] for each in ledger["attempts"]):
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
            if not same_weights(run / FINAL, self.environment.undisturbed.run("star") / FINAL):
                history.wrong.append("other weights than the undisturbed run")
        self._check_destination()
        history.left = self._leftovers()
        history.wrong += [f"left behind: {each}" for each in history.left]

    def _leftovers(self) -> list[str]:
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
        for entry in json.loads(self._read("manifest.json"))["files"]:
            content = self._read(entry["name"]) if entry["name"] in names else b""
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                history.wrong.append(f"{entry['name']} at the destination is not what was sent")
        fetched = self.environment.folder / "fetched.safetensors"
        fetched.write_bytes(self._read("star.safetensors"))
        history.is_equal = same_weights(fetched, self.environment.undisturbed.run("star") / FINAL)
        if not history.is_equal:
            history.wrong.append("the delivered weights are other ones than the undisturbed run's")

    def _names(self) -> set[str]:
        if self.folder_destination:
            files = [path for path in self.folder_destination.rglob("*") if path.is_file()]
            return {path.relative_to(self.folder_destination).as_posix() for path in files}
        client = self.environment.client
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=self.prefix).get("Contents", [])
        return {each["Key"].removeprefix(self.prefix) for each in listed}

    def _read(self, name: str) -> bytes:
        if self.folder_destination:
            return (self.folder_destination / name).read_bytes()
        found = self.environment.client.get_object(Bucket=BUCKET, Key=self.prefix + name)
        return found["Body"].read()
