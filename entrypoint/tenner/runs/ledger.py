"""What a run has done over all its attempts: `ledger.json`, in its directory and at destinations.

Steps are absolute: optimizer steps of the whole run. The ledger names the job of the run, so that
a start on the same or on an empty machine resumes this job and never another one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from threading import Lock
from typing import Any

from tenner.core.files import write_json
from tenner.core.run_dir import RunDir

LEDGER_FILE = "ledger.json"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """One start of the program on this run. `started` is ISO 8601 in UTC; `seconds` is the paid
    time, `ending` is empty while it runs and after a kill.

    `first_step` is the step of the state that it resumed from, `last_step` that of its newest state
    or of the final weights: steps beyond it were lost with a kill and are trained again.
    """

    started: str
    machine: str = ""
    first_step: int = 0
    last_step: int = 0
    seconds: float = 0.0
    cost_usd: float | None = None
    ending: str = ""


@dataclass(frozen=True, kw_only=True)
class SavedFile:
    """A weights file of the run, as it is in the run's directory and at each destination."""

    name: str
    step: int
    epoch: int
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The end of a training: the final weights, their moving average where there is one, and the
    seconds of all attempts' training."""

    file: SavedFile
    seconds: float
    ema: SavedFile | None = None


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The history of a run. `job` is its fingerprint; `decided` are the decisions of the first
    attempt for all later ones, whatever their cards; `savings` options that were changed to save
    memory."""

    output_name: str
    job: Mapping[str, Any] = field(default_factory=dict[str, Any])
    decided: Mapping[str, int] = field(default_factory=dict[str, int])
    savings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attempts: tuple[AttemptRecord, ...] = ()
    checkpoints: tuple[SavedFile, ...] = ()
    state_step: int = 0
    finished: Finished | None = None
    delivered_to: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """The step up to which the run is saved."""
        return self.finished.file.step if self.finished else self.state_step

    @property
    def paid_seconds(self) -> float:
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def cost_usd(self) -> float:
        """What all attempts cost, as far as prices were known."""
        return sum(attempt.cost_usd or 0.0 for attempt in self.attempts)

    @property
    def rank(self) -> tuple[int, bool, bool, int, int]:
        """Which of two ledgers of a run is ahead: first the longer one, if the run was extended."""
        delivered, finished = bool(self.delivered_to), self.finished is not None
        num_steps = self.decided.get("max_train_steps", 0)
        return num_steps, delivered, finished, self.state_step, len(self.attempts)

    def with_attempt(self, attempt: AttemptRecord) -> "Ledger":
        return replace(self, attempts=(*self.attempts, attempt))

    def in_this_attempt(self, **changed: Any) -> "Ledger":
        """With fields of the newest attempt changed."""
        return replace(self, attempts=(*self.attempts[:-1], replace(self.attempts[-1], **changed)))

    def resumed_from(self, step: int) -> "Ledger":
        """The ledger once the newest attempt has resumed from the state of `step`: steps beyond it
        are lost, so no attempt counts them.
        """
        records = [
            replace(
                attempt,
                first_step=min(attempt.first_step, step),
                last_step=min(max(attempt.first_step, attempt.last_step), step),
            )
            for attempt in self.attempts
        ]
        if records:
            records[-1] = replace(records[-1], last_step=step)
        return replace(self, attempts=tuple(records))

    def with_state(self, step: int) -> "Ledger":
        """With a state of `step` saved by the newest attempt."""
        return replace(self.in_this_attempt(last_step=step), state_step=step)

    def ended_with(self, finished: Finished) -> "Ledger":
        """With the final weights, written by the newest attempt."""
        return replace(self.in_this_attempt(last_step=finished.file.step), finished=finished)

    def with_checkpoint(self, file: SavedFile) -> "Ledger":
        others = tuple(each for each in self.checkpoints if each.name != file.name)
        return replace(self, checkpoints=(*others, file))

    def to_json(self) -> str:
        content = {"ledger_version": _VERSION, **asdict(self)}
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def read_ledger(content: bytes | str | None) -> Ledger | None:
    """The ledger in `content`; None where it is absent, incomplete or of a newer version."""
    try:
        found: Any = json.loads(content or "")
        if found.pop("ledger_version") != _VERSION:
            return None
        finished = found.pop("finished")
        attempts = found.pop("lives" if "lives" in found else "attempts")  # "lives" in older files
        if found["job"].get("engine") == "diffusers":  # the built-in trainer's name before
            found["job"]["engine"] = "native"
        return Ledger(
            attempts=tuple(AttemptRecord(**record) for record in attempts),
            checkpoints=tuple(SavedFile(**file) for file in found.pop("checkpoints")),
            finished=_finished(finished) if finished else None,
            delivered_to=tuple(found.pop("delivered_to")),
            **found,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _finished(found: Any) -> Finished:
    average = found.get("ema")
    return Finished(
        file=SavedFile(**found["file"]),
        seconds=float(found["seconds"]),
        ema=SavedFile(**average) if average else None,
    )


def ledger_of(run_dir: RunDir) -> Ledger | None:
    """The ledger in a run's directory."""
    try:
        return read_ledger(run_dir.ledger.read_bytes())
    except OSError:
        return None


class LedgerBook:
    """The ledger of the current run, stored on disk. Safe to change from several threads."""

    def __init__(self, run_dir: RunDir, ledger: Ledger) -> None:
        self._run_dir = run_dir
        self._ledger = ledger
        self._lock = Lock()

    @property
    def now(self) -> Ledger:
        return self._ledger

    def change(self, how: Callable[[Ledger], Ledger]) -> Ledger:
        """Change the ledger and write it. Raises OSError."""
        with self._lock:
            changed = how(self._ledger)
            if changed != self._ledger:
                self._ledger = changed
                write_json(self._run_dir.ledger, json.loads(changed.to_json()))
            return changed
