"""One attempt of a run: resumed or begun, uploaded while it trains, delivered or handed over at its
end."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tenner.core.errors import BudgetReached, DeliveryError, Problem, TennerError
from tenner.core.events import Warned
from tenner.core.messages import Message, msg
from tenner.core.retry import Deadline, PermanentError, TransientError
from tenner.core.run_dir import RunDir
from tenner.core.weights import ema_path, inspect_weights
from tenner.planning.plan import Plan
from tenner.planning.prepared import Prepared
from tenner.report.model_card import CARD_NAME
from tenner.runs.card import write_card_of_checkpoint
from tenner.runs.context import RunContext
from tenner.runs.disk import DiskGuard, disk_need
from tenner.runs.handover import unplanned_checkpoints
from tenner.runs.ledger import AttemptRecord, Finished, LedgerBook
from tenner.runs.recorder import SaveRecorder
from tenner.runs.remote_run import RemoteRun, Shipment
from tenner.runs.reserve import release_reserve, reserve
from tenner.runs.resume import machine_name, resume_or_begin
from tenner.runs.upload_item import notes_of
from tenner.runs.upload_queue import UploadPolicy
from tenner.runs.uploader import HUB_PAUSE_SECONDS, DestinationUploader, Uploader
from tenner.storage.destination import Destination
from tenner.storage.manifest import MANIFEST_NAME, read_manifest
from tenner.storage.opening import open_store
from tenner.supervision.budget import Budget, BudgetGuard, delivery_seconds
from tenner.supervision.guards import Guard
from tenner.supervision.states import newest_step, states, step_of
from tenner.supervision.training import Trained

HAND_OVER_SECONDS = 1800.0
_READ_SECONDS = 60.0


class _StopDeadline(Deadline):
    """A deadline that a signal shortens to the grace time."""

    def __init__(self, seconds: float, context: RunContext) -> None:
        super().__init__(seconds)
        self._context = context

    def remaining(self) -> float:
        left, stop = super().remaining(), self._context.stop
        return min(left, stop.seconds_left(self._context.grace_seconds)) if stop.signal else left


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A running attempt. A context: uploads are started at its beginning and stopped at its end."""

    prepared: Prepared
    run_dir: RunDir
    context: RunContext
    destinations: tuple[Destination, ...]
    book: LedgerBook
    uploader: Uploader
    recorder: SaveRecorder
    budget: Budget
    remotes: tuple[RemoteRun, ...] = ()

    @property
    def plan(self) -> Plan:
        return self.prepared.plan

    def __enter__(self) -> "Attempt":
        if not reserve(self.run_dir, disk_need(self.plan).reserved):
            text = msg("no space could be reserved on the disk for a last save")
            self.context.emit(Warned(text=text, fix=msg("free space there before it is full")))
        self.uploader.__enter__()
        self._queue_saved_files()
        return self

    def __exit__(self, *of_the_error: object) -> None:
        self.uploader.__exit__(*of_the_error)
        release_reserve(self.run_dir)

    def guards(self) -> tuple[Guard, ...]:
        """The guards of the engine besides its own."""
        budget = BudgetGuard(
            budget=self.budget, started=self.context.started, reserve=self.seconds_to_deliver
        )
        return (self.recorder, budget, DiskGuard.of(self.run_dir, lambda: self.context.log.trouble))

    def send_page(self, page: Path, step: int) -> None:
        """Send the page to the destinations."""
        self.uploader.take_checkpoint(page, "report.html", step)

    def send_card(self, error: TennerError) -> None:
        """Send a model card that names the newest checkpoint, and why the training ended early."""
        newest = max(self.book.now.checkpoints, key=lambda file: file.step, default=None)
        if newest is None:
            return
        why = "its budget was reached" if isinstance(error, BudgetReached) else "it failed"
        try:
            write_card_of_checkpoint(
                self.prepared, self.run_dir, newest, self.destinations, why=why
            )
        except OSError as trouble:
            self.context.emit(
                Warned(text=msg("no model card: {strerror}", strerror=trouble.strerror or trouble))
            )
            return
        self.uploader.take_checkpoint(self.run_dir.path / CARD_NAME, CARD_NAME, newest.step)

    def seconds_to_deliver(self) -> float:
        """The seconds that saving and delivering take now, by the sizes of the newest files."""
        ledger = self.book.now
        newest = max((file.size for file in ledger.checkpoints), default=0)
        saved = states(self.run_dir)
        state = sum(each.stat().st_size for each in saved[0].iterdir()) if saved else 0
        waiting = sum(each.waiting_bytes for each in self.uploader.destinations)
        return delivery_seconds(newest + state + waiting, self.uploader.bytes_per_second)

    def has_time_to_draw(self) -> bool:
        """Whether the budget and the grace time suffice to draw pictures; a warning if not."""
        left = self.budget.seconds
        used = time.monotonic() - self.context.started
        if self.context.stop.signal is not None:
            return False
        if left is None or used + self.seconds_to_deliver() < left:
            return True
        text = msg(
            "no pictures are drawn: the budget is used up ({used})", used=self.budget.describe(used)
        )
        self.context.emit(Warned(text=text))
        return False

    def finish_early(self, trained: Trained) -> Trained:
        """Make the last checkpoint the result of a training that a stop file ended."""
        final = self.run_dir.checkpoints / f"{self.plan.output_name}.safetensors"
        shutil.copyfile(trained.weights.path, final)
        now = self.book.now
        newest = next(file for file in now.checkpoints if file.name == trained.weights.path.name)
        done = Finished(file=replace(newest, name=final.name), seconds=now.paid_seconds)
        average = ema_path(trained.weights.path)
        saved = next((file for file in now.checkpoints if file.name == average.name), None)
        if saved is not None:
            shutil.copyfile(average, ema_path(final))
            done = replace(done, ema=replace(saved, name=ema_path(final).name))
        self.book.change(lambda ledger: ledger.ended_with(done))
        return replace(trained, weights=replace(trained.weights, path=final))

    def hand_over(self, error: TennerError) -> TennerError:
        """After a training that did not reach its end: send all files, the newest first.

        Returns the error to end with, which names what was delivered and where.
        """
        release_reserve(self.run_dir)
        self.recorder.note(ending=type(error).__name__)
        seconds = HAND_OVER_SECONDS
        if self.context.stop.signal is not None:
            seconds = self.context.stop.seconds_left(self.context.grace_seconds)
        at = self.uploader.hand_over(seconds)
        missing = [
            str(each.remote.destination)
            for each in self.uploader.destinations
            if each.remote.destination.required and str(each.remote.destination) not in at
        ]
        ledger = self.book.now
        has_something = bool(ledger.checkpoints or ledger.state_step)
        problems = list(error.problems)
        if at and has_something:
            problems.append(Problem(text=self._delivered_text(at), level="note"))
        if missing:
            note = Problem(
                text=msg(
                    "not all of it is at {missing}; everything is in {path}",
                    missing=", ".join(missing),
                    path=self.run_dir.path,
                ),
                fix=msg("start the same command again there: it resumes and delivers"),
                level="warning",
            )
            problems.append(note)
        if missing and has_something and isinstance(error, BudgetReached):
            return DeliveryError(problems=problems)
        ended = type(error)(problems=problems)
        ended.is_delivered = has_something and not missing
        return ended

    def deadline(self) -> Deadline:
        """The delivery's deadline: half an hour, after a signal the rest of the grace time."""
        return _StopDeadline(HAND_OVER_SECONDS, self.context)

    def note_delivered(self, at: Sequence[str]) -> None:
        """Record, here and at the destinations, that the run is delivered, and remove the states
        there."""
        self.recorder.note_delivered(at)
        for remote in self.remotes:
            try:
                unplanned = unplanned_checkpoints(self.run_dir, self.plan.output_name)
                last = Shipment(
                    notes=notes_of(self.run_dir),
                    keep_states=0,
                    gone=tuple(f"checkpoints/{each}" for each in sorted(unplanned)),
                )
                remote.put_set(last, limit_seconds=_READ_SECONDS)
            except (DeliveryError, OSError) as error:
                why = error.problems[0].text if isinstance(error, DeliveryError) else str(error)
                text = msg(
                    "the ledger at {destination} is outdated: {why}",
                    destination=remote.destination,
                    why=why,
                )
                fix = msg(
                    "a start on an empty machine would train again: start it in this directory"
                )
                self.context.emit(Warned(text=text, fix=fix))

    def is_delivered(self) -> bool:
        """Whether every destination still has this run's complete set."""
        ledger = self.book.now
        required = {str(each) for each in self.destinations}
        if ledger.finished is None or not required <= set(ledger.delivered_to):
            return False
        weights = (ledger.finished.file.name, ledger.finished.file.sha256)
        return all(self._holds(each, weights) for each in self.destinations)

    def _holds(self, destination: Destination, weights: tuple[str, str]) -> bool:
        context, deadline = self.context, Deadline(_READ_SECONDS)
        try:
            store = open_store(destination, secrets=context.secrets, env=context.environ)
            content = store.read(MANIFEST_NAME, deadline)
        except TransientError:
            return False
        except PermanentError:
            return self._is_write_only(destination)  # then the local ledger is the only source
        manifest = read_manifest(content) if content else None
        if manifest is None or manifest.job != self.plan.output_name:
            return False
        return weights in {(each.name, each.sha256) for each in manifest.files}

    def _is_write_only(self, destination: Destination) -> bool:
        known = [remote for remote in self.remotes if remote.destination == destination]
        return any(not can_be_read(remote) for remote in known)

    def _queue_saved_files(self) -> None:
        """Queue what an earlier attempt may not have sent; the uploader skips equal content."""
        ledger = self.book.now
        for file in ledger.checkpoints:
            path = self.run_dir.checkpoints / file.name
            if path.is_file():
                self.uploader.take_checkpoint(path, f"checkpoints/{file.name}", file.step)
        if ledger.finished is None and (saved := states(self.run_dir)):
            self.uploader.take_state(saved[0], step_of(saved[0]))
        self.uploader.note()

    def _delivered_text(self, at: Sequence[str]) -> Message:
        ledger = self.book.now
        files = [*ledger.checkpoints, *([ledger.finished.file] if ledger.finished else [])]
        newest = max(files, key=lambda file: file.step, default=None)
        what = f"checkpoints/{newest.name}" if newest else ""
        if ledger.state_step and any(each.sends_states for each in self.uploader.destinations):
            state = msg("the state of step {step}", step=ledger.state_step)
            what = msg("{file} and {state}", file=what, state=state) if what else state
        return msg("delivered and verified: {what} at {at}", what=what, at=", ".join(at))


def begin_attempt(
    prepared: Prepared,
    run_dir: RunDir,
    context: RunContext,
    destinations: tuple[Destination, ...],
    *,
    price_per_hour: float | None,
    restart: bool,
) -> Attempt:
    """Resume the run, from its directory or a destination, or begin it.

    Raises SettingsError where these have another job, and DeliveryError where the state cannot be
    fetched.
    """
    settings = prepared.settings
    remotes = [
        RemoteRun(
            each,
            prepared.plan.output_name,
            context.secrets,
            context.environ,
            on_trouble=lambda text: context.emit(Warned(text=text)),
        )
        for each in destinations
    ]
    outside = [each for each in remotes if not is_inside(each.destination, run_dir)]
    if restart:
        for remote in outside:
            remote.drop_states(0)
    prepared, ledger = resume_or_begin(
        prepared,
        run_dir,
        [] if restart else outside,
        report=context.screen.say,
        take_events=context.log.put_before,
    )
    budget = Budget(
        max_cost_usd=settings.max_cost_usd,
        max_hours=settings.max_hours,
        price_per_hour=price_per_hour,
        spent_usd=ledger.cost_usd,
        spent_seconds=ledger.paid_seconds,
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    step = ledger.finished.file.step if ledger.finished else newest_step(run_dir)
    record = AttemptRecord(
        started=now, machine=machine_name(prepared), first_step=step, last_step=step
    )
    book = LedgerBook(run_dir, ledger)
    book.change(lambda ledger: ledger.resumed_from(step).with_attempt(record))
    holding_states = [remote for remote in outside if can_be_read(remote)]
    uploaders = [
        DestinationUploader(
            remote,
            run_dir,
            UploadPolicy(
                keep_states=settings.keep_remote_states if remote in holding_states else 0,
                sends_notes=remote in outside,
                in_sets=remote.destination.kind == "hub",
                pause_seconds=HUB_PAUSE_SECONDS if remote.destination.kind == "hub" else 0.0,
            ),
            index=index,
            on_event=context.emit,
        )
        for index, remote in enumerate(remotes)
    ]
    uploader = Uploader(run_dir=run_dir, destinations=uploaders)
    recorder = SaveRecorder(
        run_dir=run_dir,
        book=book,
        uploader=uploader,
        started=context.started,
        cost_usd=budget.cost_usd,
    )
    return Attempt(
        prepared=prepared,
        run_dir=run_dir,
        context=context,
        destinations=destinations,
        book=book,
        uploader=uploader,
        recorder=recorder,
        budget=budget,
        remotes=tuple(outside),
    )


def can_be_read(remote: RemoteRun) -> bool:
    """Whether the keys may read there, so that a run can be resumed; True where nothing answers."""
    try:
        return remote.permissions(limit_seconds=_READ_SECONDS).reads
    except DeliveryError:
        return True


def is_inside(destination: Destination, run_dir: RunDir) -> bool:
    """Whether a destination is a folder in the run's directory, which is no second copy."""
    inside = str(run_dir.path.absolute()) + "/"
    return destination.kind == "folder" and f"{destination.root}/".startswith(inside)


def spent(attempt: Attempt) -> str:
    """The part of the budget that this run has used, as text."""
    return attempt.budget.describe(time.monotonic() - attempt.context.started)


def trained_before(finished: Finished | None, run_dir: RunDir) -> Trained | None:
    """The training that an earlier attempt finished; None where its weights are missing or
    damaged."""
    if finished is None:
        return None
    found = inspect_weights(run_dir.checkpoints / finished.file.name)
    if isinstance(found, Problem) or found.num_bytes != finished.file.size:
        return None
    step = finished.file.step
    return Trained(
        weights=found, step=step, finished=True, seconds=finished.seconds, resumed_from=step
    )
