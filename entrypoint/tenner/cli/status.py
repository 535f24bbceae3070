"""`tenner status RUN`: how far a run is, what it has cost, and where its result is."""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tenner.core.errors import SettingsError
from tenner.core.event_log import read_event_lines
from tenner.core.messages import Message, msg, plural
from tenner.core.run_dir import RunDir
from tenner.queue.record import read_records
from tenner.runs.ledger import AttemptRecord, Ledger, ledger_of
from tenner.serve.batch_dir import RECORDS, is_batch, job_dirs
from tenner.ui.lines import duration

State = Literal["running", "delivered", "trained, not delivered", "stopped", "failed", "cut"]


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of a run, by the files in its directory. `seconds_left` is of the training
    alone."""

    name: str
    state: State
    phase: str
    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    loss: float | None
    seconds_per_step: float | None
    seconds_left: float | None
    paid_seconds: float
    cost_usd: float | None
    saved_step: int
    checkpoints: tuple[str, ...]
    at_destinations: Mapping[str, int]
    """The newest step that each destination holds a state or weights of."""
    delivered_to: tuple[str, ...]
    attempts: tuple[AttemptRecord, ...]
    last_problem: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)


def print_status(run: Path, *, as_json: bool) -> None:
    """Print how the run, or each job of the batch, in `run` stands. Raises SettingsError where
    there is neither."""
    if is_batch(run):
        _print_batch(run, as_json=as_json)
        return
    found = status_of(RunDir(run))
    print(found.to_json() if as_json else "\n".join(status_lines(found)))


def _print_batch(folder: Path, *, as_json: bool) -> None:
    records = read_records(folder / RECORDS)
    jobs = job_dirs(folder)
    found = {name: status_of(run_dir) for name, run_dir in jobs.items() if run_dir.ledger.is_file()}
    if as_json:
        listed = [
            {**asdict(each), "run_status": asdict(found[name]) if name in found else None}
            for name, each in records.items()
        ]
        print(json.dumps(listed, ensure_ascii=False, indent=1))
        return
    for name, record in records.items():
        print("\n".join(status_lines(found[name])) if name in found else f"{name}: {record.state}")
        if record.problems and name not in found:
            print(f"  problem    {record.problems[0]}")
    ended = sum(each.is_over for each in records.values())
    costs = [each.cost_usd for each in records.values() if each.cost_usd is not None]
    spent = f", ${sum(costs):.2f}" if costs else ""
    seconds = sum(each.seconds for each in records.values())
    print(f"{ended} of {len(records)} jobs delivered, {duration(seconds)}{spent}")


def status_of(run_dir: RunDir) -> Status:
    """Raises SettingsError where no run has been started in this directory."""
    ledger = ledger_of(run_dir)
    if ledger is None:
        raise SettingsError(
            msg("{path} is not the directory of a run", path=run_dir.path),
            fix=_runs_in(run_dir.path),
        )
    seen = _Seen()
    for line in read_event_lines(run_dir.events):
        seen.take(line)
    running = _is_running(run_dir)
    step = seen.step
    done, total = int(step.get("step", ledger.step)), int(step.get("num_steps", 0))
    each = step.get("seconds_per_step") or None
    left = (total - done) * each if running and each and ledger.finished is None else None
    priced = [attempt.cost_usd for attempt in ledger.attempts if attempt.cost_usd is not None]
    return Status(
        name=ledger.output_name,
        state=_state(ledger, running=running),
        phase=seen.phase if running else "",
        step=ledger.finished.file.step if ledger.finished else done,
        num_steps=total or ledger.decided.get("max_train_steps", 0),
        epoch=int(step.get("epoch", 0)),
        num_epochs=int(step.get("num_epochs", 0)),
        loss=step.get("loss_avg"),
        seconds_per_step=each,
        seconds_left=left,
        paid_seconds=ledger.paid_seconds,
        cost_usd=sum(priced) if priced else None,
        saved_step=ledger.step,
        checkpoints=tuple(file.name for file in ledger.checkpoints),
        at_destinations=seen.sent,
        delivered_to=ledger.delivered_to,
        attempts=ledger.attempts,
        last_problem="" if ledger.delivered_to else seen.problem,
    )


def _runs_in(folder: Path) -> Message:
    """Where to look instead: the runs and batches in this folder, if there are any."""
    try:
        found = sorted(
            each.name
            for each in folder.iterdir()
            if RunDir(each).ledger.is_file() or is_batch(each)
        )
    except OSError:
        found = []
    if found:
        return msg("name one of those in it: {names}", names=", ".join(found[:10]))
    return msg("name the folder that holds ledger.json: <output_dir>/<output_name>")


def status_lines(status: Status) -> list[str]:
    """The status as a person reads it."""
    lines = [f"{status.name}: {status.state}" + (f" ({status.phase})" if status.phase else "")]
    loss = f", loss {status.loss:.4f}" if status.loss is not None else ""
    epoch = f", epoch {status.epoch}/{status.num_epochs}" if status.num_epochs else ""
    lines.append(f"  step       {status.step}/{status.num_steps}{epoch}{loss}")
    if status.seconds_left is not None:
        lines.append(f"  left       {duration(status.seconds_left)} of training")
    spent = f", ${status.cost_usd:.2f}" if status.cost_usd is not None else ""
    starts = f"{len(status.attempts)} start{'' if len(status.attempts) == 1 else 's'}"
    lines.append(f"  spent      {duration(status.paid_seconds)}{spent} in {starts}")
    checkpoints = plural("{n} checkpoint", "{n} checkpoints", len(status.checkpoints))
    lines.append(f"  saved      step {status.saved_step}, {checkpoints}")
    for destination, step in status.at_destinations.items():
        whole = ": all of it, verified" if destination in status.delivered_to else f": step {step}"
        lines.append(f"  at         {destination}{whole}")
    lines += [
        f"  at         {destination}: all of it, verified"
        for destination in status.delivered_to
        if destination not in status.at_destinations
    ]
    if status.last_problem:
        lines.append(f"  problem    {status.last_problem}")
    if status.state not in ("running", "delivered"):
        lines.append("  next       start the same command again: it resumes from there")
    return lines


class _Seen:
    """The latest of each kind of event of a run."""

    def __init__(self) -> None:
        self.step: dict[str, Any] = {}
        self.phase = ""
        self.problem = ""
        self.sent: dict[str, int] = {}

    def take(self, line: Mapping[str, Any]) -> None:
        """Take over what a line of `events.jsonl` shows."""
        match line.get("event"):
            case "step":
                self.step, self.phase = dict(line), "training"
            case "phase":
                self.phase = str(line.get("name", ""))
            case "failed":
                self.problem = str(line.get("text", ""))
            case "sent":
                where, step = str(line["destination"]), int(line["step"])
                self.sent[where] = max(step, self.sent.get(where, 0))
            case _:
                pass


def _state(ledger: Ledger, *, running: bool) -> State:
    """The state of the run: the ledger's last ending, unless a program holds the run's
    directory."""
    if running:
        return "running"
    if ledger.delivered_to:
        return "delivered"
    if ledger.finished:
        return "trained, not delivered"
    ending = ledger.attempts[-1].ending if ledger.attempts else ""
    if not ending:
        return "cut"
    return "stopped" if ending in ("Stopped", "BudgetReached") else "failed"


def _is_running(run_dir: RunDir) -> bool:
    """Whether a program holds the run's directory."""
    try:
        with (run_dir.path / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
