"""Whether the card still works, by nvidia-smi every 30 s while it trains.

nvidia-smi can hang after a driver's failure, so it runs on a separate thread.
"""

import contextlib
import statistics
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

from tenner.core.events import Event, Failed, Step, Warned
from tenner.core.messages import msg
from tenner.core.secrets import child_environ
from tenner.supervision.guards import Verdict

EVERY_SECONDS = 30.0
AGAIN_SECONDS = 1.0
FAILURES = 3
"""After so many failed readings in a row, a second apart, the host has lost the card."""
IDLE_PERCENT = 20.0
IDLE_READINGS = 10
HOT_READINGS = 3
_FIELDS = ("utilization.gpu", "clocks_throttle_reasons.hw_slowdown", "temperature.gpu")
_ACTIVE = "active"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One answer of nvidia-smi: the values of the busiest and hottest card (None: unknown), or in
    `trouble` why there are none."""

    utilization_percent: float | None = None
    is_throttled: bool = False
    celsius: float | None = None
    trouble: str = ""


def parse_reading(text: str, returncode: int) -> Reading:
    """nvidia-smi's answer to `_FIELDS`, a card a line."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if "not a valid field" in first:
        return Reading()  # an old driver: the card is there, nothing is known of it
    if returncode != 0 or not first or "," not in first:
        return Reading(trouble=first or f"nvidia-smi ended with code {returncode}")
    rows = [
        [part.strip() for part in line.split(",")] for line in text.splitlines() if line.strip()
    ]
    used = [number for row in rows if (number := _number(row[0])) is not None]
    heat = [number for row in rows if (number := _number(row[-1])) is not None]
    return Reading(
        utilization_percent=max(used, default=None),
        is_throttled=any(row[1].lower() == _ACTIVE for row in rows if len(row) > 1),
        celsius=max(heat, default=None),
    )


def read_smi(environ: Mapping[str, str]) -> Reading:
    """Run nvidia-smi once, for at most 20 s. Never raises."""
    argv = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            argv,
            env=child_environ(environ),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Reading(trouble="nvidia-smi does not answer")
    except OSError as error:
        return Reading(trouble=f"nvidia-smi cannot be run: {error.strerror}")
    return parse_reading(done.stdout + done.stderr, done.returncode)


@dataclass(kw_only=True)
class CardWatch:
    """A guard that reads the card on a thread, inside of its context.

    Ends the training where the card is lost; warns once each of an idle and of a throttled card.
    """

    read: Callable[[], Reading]
    every_seconds: float = EVERY_SECONDS
    again_seconds: float = AGAIN_SECONDS
    _readings: deque[Reading] = field(default_factory=lambda: deque[Reading](maxlen=IDLE_READINGS))
    _closing: threading.Event = field(default_factory=threading.Event)
    _steps: int = 0
    _steps_at_check: int = 0
    _answers: SimpleQueue[Reading] = field(default_factory=SimpleQueue[Reading])
    _warned: set[str] = field(default_factory=set[str])

    def __enter__(self) -> "CardWatch":
        threading.Thread(target=self._watch, name="card", daemon=True).start()
        return self

    def __exit__(self, *of_the_error: object) -> None:
        self._closing.set()

    def handle(self, event: Event | None) -> Verdict | None:
        self._steps += isinstance(event, Step)
        return None

    def check(self) -> Verdict | None:
        if self._answers.empty():
            return None
        while not self._answers.empty():
            self._readings.append(self._answers.get())
        readings = list(self._readings)
        lost = readings[-FAILURES:]
        if len(lost) == FAILURES and all(each.trouble for each in lost):
            failed = Failed(
                kind="host",
                text=msg("the host has lost its card: {trouble}", trouble=lost[-1].trouble),
                fix=msg(
                    "rent another machine and start the same command there: it resumes from"
                    " the last state"
                ),
            )
            return Verdict(event=failed, end="save", reason="host")
        trains, self._steps_at_check = self._steps > self._steps_at_check, self._steps
        return self._slow(readings) if trains else None

    def take(self, reading: Reading) -> None:
        """Take a reading, from any thread."""
        self._answers.put(reading)

    def _slow(self, readings: list[Reading]) -> Verdict | None:
        """Signs of a bad host, each reported once."""
        used = [
            each.utilization_percent for each in readings if each.utilization_percent is not None
        ]
        if len(used) == IDLE_READINGS and statistics.median(used) < IDLE_PERCENT:
            text = msg(
                "the card is busy only {median} % of the time",
                median=f"{statistics.median(used):.0f}",
            )
            return self._once(
                "idle",
                text,
                msg("the CPU or the disk is too slow for it, or another program uses the card"),
            )
        hot = readings[-HOT_READINGS:]
        if len(hot) == HOT_READINGS and all(each.is_throttled for each in hot):
            at = (
                msg(" at {celsius} °C", celsius=f"{hot[-1].celsius:.0f}")
                if hot[-1].celsius is not None
                else ""
            )
            fix = msg("the host's cooling or power is bad: another machine would be faster")
            return self._once(
                "hot", msg("the card throttles itself to protect its hardware{at}", at=at), fix
            )
        return None

    def _once(self, what: str, text: str, fix: str) -> Verdict | None:
        if what in self._warned:
            return None
        self._warned.add(what)
        return Verdict(event=Warned(text=text, fix=fix))

    def _watch(self) -> None:
        while not self._closing.is_set():
            found = self.read()
            self.take(found)
            self._closing.wait(self.again_seconds if found.trouble else self.every_seconds)


@contextlib.contextmanager
def watching(device: str, environ: Mapping[str, str]) -> Generator[tuple[CardWatch, ...]]:
    """The guard of a card, none for a training on the CPU."""
    if device != "cuda":
        yield ()
        return
    with CardWatch(read=partial(read_smi, environ)) as watch:
        yield (watch,)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
