"""Resumes a run from its directory or a destination, whichever has the most steps.

Only complete states are used: one without its mark is ignored, and every fetched file has to match
its size and hash.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tenner.core.errors import DeliveryError, SettingsError
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.dataset import Dataset
from tenner.engines.train_options import Value
from tenner.planning.learning_rate import rates_for
from tenner.planning.length import Length
from tenner.planning.plan import Plan
from tenner.planning.prepared import Prepared
from tenner.runs.extending import as_longer, extension_text, longer, retain_delivered
from tenner.runs.fingerprint import fingerprint, images_per_step, refuse_other_job
from tenner.runs.ledger import LEDGER_FILE, Ledger, ledger_of, read_ledger
from tenner.runs.remote_run import RemoteRun
from tenner.runs.remote_state import RemoteState
from tenner.runs.upload_item import EVENTS_FILE
from tenner.settings.model import Settings
from tenner.storage.manifest import RemoteEntry
from tenner.supervision.oom_fallback import CHANGES_THE_NETWORK
from tenner.supervision.states import newest_step

READ_SECONDS = 60.0

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A run at one destination: its ledger and its newest complete state."""

    remote: RemoteRun
    ledger: Ledger
    state: RemoteState | None

    @property
    def rank(self) -> tuple[int, bool, bool, int]:
        """Which of two copies of a run is ahead."""
        num_steps, delivered, finished, *_ = self.ledger.rank
        return num_steps, delivered, finished, self.state.step if self.state else 0


def look(remotes: Sequence[RemoteRun], report: Report) -> Found | None:
    """The run at the destination that is the furthest ahead; None where none has it.

    Raises SettingsError where a required destination cannot be reached, so that a short outage does
    not lead to training the same steps again.
    """
    found: list[Found] = []
    for remote in remotes:
        try:
            if not remote.permissions(limit_seconds=READ_SECONDS).reads:
                continue  # `check_destinations` has warned of it
            ledger = read_ledger(remote.get_file(LEDGER_FILE, limit_seconds=READ_SECONDS))
            if ledger is None:
                continue
            whole = remote.states(limit_seconds=READ_SECONDS)
            found.append(Found(remote=remote, ledger=ledger, state=whole[0] if whole else None))
        except DeliveryError as error:
            text = msg(
                "whether {destination} holds this run is not known: {problems}",
                destination=remote.destination,
                problems=error.problems[0],
            )
            if remote.destination.required:
                fix = msg("start again when it answers, or add --restart to start over")
                raise SettingsError(text, fix=fix) from error
            report(text)
    return max(found, key=lambda each: each.rank, default=None)


def with_earlier_decisions(
    plan: Plan, ledger: Ledger, settings: Settings, dataset: Dataset
) -> Plan:
    """The plan for this machine's card, with the decisions of the run's first attempt.

    The images of a step stay the same on every card, by accumulation, and so does the length. A
    batch size that the user set is not changed.
    """
    images_per_step = ledger.decided.get("images_per_step", 0)
    if (
        isinstance(settings.batch_size, int)
        or not images_per_step
        or images_per_step % plan.num_processes
    ):
        return plan
    per_process = images_per_step // plan.num_processes
    fits = min(plan.options.train_batch_size, per_process)
    batch = max(size for size in range(1, fits + 1) if per_process % size == 0)
    decided = {
        "train_batch_size": batch,
        "gradient_accumulation_steps": per_process // batch,
        "max_train_steps": settings.max_train_steps or ledger.decided["max_train_steps"],
        "lr_warmup_steps": ledger.decided["lr_warmup_steps"],
        **asdict(rates_for(settings, images_per_step)),
    }
    return with_options(plan, decided, dataset)


def with_options(plan: Plan, changed: Mapping[str, Value], dataset: Dataset) -> Plan:
    """The plan with other options, and with the steps of an epoch that follow from them."""
    options = plan.options.with_changed(changed)
    batches = dataset.batches_per_epoch(options.train_batch_size)
    in_a_step = options.gradient_accumulation_steps * plan.num_processes
    length = Length(
        num_steps=options.max_train_steps, steps_per_epoch=max(1, -(-batches // in_a_step))
    )
    return replace(plan, options=options, length=length)


def decisions(plan: Plan) -> dict[str, int]:
    """What the first attempt decides for all attempts."""
    return {
        "images_per_step": images_per_step(plan),
        "max_train_steps": plan.length.num_steps,
        "lr_warmup_steps": plan.options.lr_warmup_steps,
    }


def resume_or_begin(
    prepared: Prepared,
    run_dir: RunDir,
    remotes: Sequence[RemoteRun],
    *,
    report: Report,
    take_events: Callable[[bytes], None],
) -> tuple[Prepared, Ledger]:
    """Resume this run, from its directory or a destination, or begin it.

    Returns the plan with the decisions of earlier attempts, and the ledger; `take_events` gets
    their events. Raises SettingsError where the directory or a destination has another job,
    DeliveryError where the state cannot be fetched.
    """
    here, found = ledger_of(run_dir), look(remotes, report)
    known = here or (found.ledger if found else None)
    settings, dataset = prepared.settings, prepared.dataset
    plan = (
        with_earlier_decisions(prepared.plan, known, settings, dataset) if known else prepared.plan
    )
    if known:
        plan = with_options(plan, _length_of(plan, known, settings), dataset)
    job = fingerprint(plan, settings, dataset=dataset.content_hash)
    is_longer = known is not None and as_longer(known, job, plan) is not known
    if known and is_longer:
        report(extension_text(known, plan))
    here = as_longer(here, job, plan) if here else None
    found = replace(found, ledger=as_longer(found.ledger, job, plan)) if found else None
    if here:
        refuse_other_job(here.job, job, str(run_dir.path))
    if found:
        refuse_other_job(found.ledger.job, job, str(found.remote.destination))
    if here and found and network_of(here) != network_of(found.ledger):
        for remote in remotes:  # states of another network cannot be resumed from
            remote.drop_states(0, limit_seconds=READ_SECONDS)
        found = None
    ledger = fetch_run(found, run_dir, report, take_events) if found else here
    if ledger is None:
        begun = Ledger(output_name=plan.output_name, job=job, decided=decisions(plan))
        return replace(prepared, plan=plan), begun
    if known and is_longer:
        ledger = replace(ledger, state_step=retain_delivered(known, run_dir))
    machine = ledger.attempts[-1].machine if ledger.attempts else ""
    savings = savings_here(ledger, same_machine=machine == machine_name(prepared))
    plan = with_options(plan, savings, dataset) if savings else plan
    return replace(prepared, plan=plan), ledger


def _length_of(plan: Plan, ledger: Ledger, settings: Settings) -> dict[str, Value]:
    """The length options of a run that is resumed, or extended."""
    warmup = plan.options.lr_warmup_steps
    decided: dict[str, Value] = {"lr_warmup_steps": ledger.decided.get("lr_warmup_steps", warmup)}
    num_steps = longer(plan, ledger, settings)
    return decided | ({"max_train_steps": num_steps} if num_steps else {})


def machine_name(prepared: Prepared) -> str:
    """The card's name or `cpu`: memory savings of one card are not applied on another."""
    return prepared.plan.gpu or "cpu"


def savings_here(ledger: Ledger, *, same_machine: bool) -> dict[str, Value]:
    """The options that earlier attempts changed to save memory; of another card's, only those that
    changed the network."""
    return {
        key: value
        for key, value in ledger.savings.items()
        if same_machine or key in CHANGES_THE_NETWORK
    }


def network_of(ledger: Ledger) -> dict[str, Value]:
    """The changed options of the network itself: states of different networks do not fit."""
    return savings_here(ledger, same_machine=False)


def fetch_run(
    found: Found, run_dir: RunDir, report: Report, take_events: Callable[[bytes], None]
) -> Ledger:
    """Fetch the files that this directory lacks. Returns the ledger to resume.

    Raises DeliveryError where the state cannot be fetched.
    """
    newest = newest_step(run_dir)
    where = found.remote.destination
    if events := found.remote.get_file(EVENTS_FILE):
        take_events(events)
    if found.state and found.state.step > newest:
        report(f"resuming from step {found.state.step}, stored at {where}")
        found.remote.fetch_state(found.state, run_dir.state / f"step-{found.state.step:08d}")
    _fetch_checkpoints(found, run_dir, report)
    here = ledger_of(run_dir)
    return here if here and here.rank >= found.ledger.rank else found.ledger


def _fetch_checkpoints(found: Found, run_dir: RunDir, report: Report) -> None:
    """Fetch earlier weights, for the samples and the manifest; a failure is reported."""
    finished = found.ledger.finished
    files = [(f"checkpoints/{file.name}", file) for file in found.ledger.checkpoints]
    ends = [finished.file, finished.ema] if finished else []
    files += [(each.name, each) for each in ends if each is not None]
    for name, file in files:
        path = run_dir.checkpoints / file.name
        if path.is_file():
            continue
        entry = RemoteEntry(name=name, size=file.size, sha256=file.sha256)
        try:
            found.remote.fetch_file(entry, path)
        except DeliveryError as error:
            report(f"{name} was not fetched: {error.problems[0].text}")


def move_earlier_run(run_dir: RunDir) -> Path | None:
    """Move an earlier run to a folder beside this one, so that the run starts over.

    Returns the folder; None where there was no run. Raises OSError.
    """
    if not run_dir.ledger.is_file() and not run_dir.settings.is_file():
        return None
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    backup = run_dir.path.with_name(f"{run_dir.path.name}.before-{now}")
    backup.mkdir()
    for each in run_dir.path.iterdir():
        if each.name != ".lock":
            each.rename(backup / each.name)
    run_dir.create()
    return backup
