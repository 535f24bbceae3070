"""One job after another: each a whole run, whatever became of the one before it.

A start resumes where the last one was: delivered jobs are left alone, cut ones resume, failed ones
are tried again. What was spent by earlier starts counts.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tenner.core.errors import BudgetReached, ExitCode, Stopped, TennerError
from tenner.core.events import Phase
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.core.secrets import secrets_from
from tenner.core.writable import make_writable
from tenner.hardware.prices import price_of
from tenner.hosts import end_host, find_host
from tenner.pipeline.run import AlreadyDelivered, Outcome, run
from tenner.planning.prepared import Prepared
from tenner.queue.jobs import Batch, BatchOptions
from tenner.queue.record import JobRecord, new_record, read_records, write_records
from tenner.queue.shared import SharedDatasets, SharedPreparation, last_loss, problems_of
from tenner.queue.summary import write_summary
from tenner.runs.run_lock import lock_run
from tenner.runs.session import Session
from tenner.serve.batch_dir import RECORDS, SUMMARY
from tenner.settings import Request
from tenner.supervision.supervise import StopRequest, stop_on_signals
from tenner.ui.lines import duration
from tenner.ui.screen import Screen
from tenner.warm.start import WarmTrainer

_SDXL_WORK = 2.0
"""Work per pixel of an SDXL step against one of SD 1.5: 15.01 TFLOP at 1024² and 1.844 at 512²,
traced with sd-scripts' own U-Nets and a LoRA of rank 32."""


@dataclass(kw_only=True)
class Queue:
    """The jobs of a batch and how far each is."""

    batch: Batch
    environ: Mapping[str, str]
    make_screen: Callable[[Request], Screen]
    session: Session
    preparation: SharedPreparation
    records: dict[str, JobRecord] = field(default_factory=dict[str, JobRecord])
    failures: int = 0

    def prepare_all(self, screen: Screen) -> None:
        """Prepare every job that is not over, so that what is wrong is known before any trains."""
        before = read_records(self.batch.folder / RECORDS)
        for job in self.batch.jobs:
            fresh = new_record(job, job.settings.run_dir.path)
            known = before.get(fresh.name)
            same = known is not None and known.digest == fresh.digest
            self.records[fresh.name] = known if known and same else fresh
        for job in self.batch.jobs:
            record = self.record(job)
            if record.is_over and job.settings.run_dir.delivered.is_file():
                continue
            self.note(replace(record, state="waiting", exit_code=None, problems=()))
            self._prepare(job, screen)
        self.write()

    def _prepare(self, job: Request, screen: Screen) -> None:
        """Prepare one job; one that cannot be trained is recorded as failed, with its problems."""
        name = job.settings.output_name

        def decoded(done: int, total: int) -> None:
            detail = f"images of {name} decoded"
            screen.show(Phase(name="dataset", detail=detail, done=done, total=total))

        try:
            prepared = self.preparation.prepare_early(job, decoded)
        except TennerError as error:
            self.failed(job, error)
            screen.say(f"{name}: cannot be trained")
            for problem in error.problems:
                screen.problem(problem)
        else:
            steps = prepared.plan.length.num_steps
            self.note(replace(self.record(job), num_steps=steps))

    def record(self, job: Request) -> JobRecord:
        return self.records[job.settings.output_name]

    def note(self, record: JobRecord) -> None:
        self.records[record.name] = record

    def write(self) -> None:
        """Bring `batch.json` and `batch.html` up to date. Raises OSError."""
        listed = [self.record(job) for job in self.batch.jobs]
        write_records(self.batch.folder / RECORDS, listed)
        write_summary(self.batch.folder / SUMMARY, self.batch.name, listed)

    def waiting(self) -> list[Request]:
        """The jobs to run, in the order requested."""
        jobs = [job for job in self.batch.jobs if self.record(job).state == "waiting"]
        if self.batch.options.shortest_first:
            jobs.sort(
                key=lambda job: work_of(
                    self.preparation.prepare_early(job, lambda done, total: None)
                )
            )
        return jobs

    def failed(self, job: Request, error: TennerError) -> None:
        """Record that the job failed, with its exit code and problems."""
        self.failures += 1
        self.note(
            replace(
                self.record(job),
                state="failed",
                exit_code=int(error.exit_code),
                problems=problems_of(error),
            )
        )

    def run(self, job: Request) -> None:
        """Run one job to whatever end. Raises Stopped where a signal ended it."""
        record = self.record(job)
        allowed = within(job, self.batch.options, list(self.records.values()))
        if allowed is None:
            text = msg("nothing is left of the budget of all jobs")
            self.note(replace(record, state="budget", exit_code=ExitCode.BUDGET, problems=(text,)))
            self.write()
            return
        self.note(replace(record, state="training"))
        self.write()
        started = time.monotonic()
        try:
            outcome = run(allowed, self.environ, self.make_screen(job), session=self.session)
        except BudgetReached as error:
            self.note(
                replace(
                    self.record(job),
                    state="budget",
                    exit_code=ExitCode.BUDGET,
                    problems=problems_of(error),
                )
            )
        except (Stopped, KeyboardInterrupt):
            self.note(replace(self.record(job), state="stopped", exit_code=ExitCode.STOPPED))
            raise
        except TennerError as error:
            self.failed(job, error)
        else:
            self.note(_delivered(self.record(job), outcome))
        finally:
            self.note(_spent(self.record(job), job, time.monotonic() - started, self.preparation))
            self.write()

    def exit_code(self) -> int:
        """Of the batch: 0 where all is delivered, else that of the first job that is not."""
        codes = [self.record(job).exit_code for job in self.batch.jobs]
        waits = any(self.record(job).state == "waiting" for job in self.batch.jobs)
        worst = next((code for code in codes if code), None)
        return worst if worst else (ExitCode.STOPPED if waits else ExitCode.DELIVERED)


def run_batch(
    batch: Batch,
    environ: Mapping[str, str],
    make_screen: Callable[[Request], Screen],
) -> int:
    """All jobs of the batch. Returns the exit code.

    Raises SettingsError where another program holds the batch, Stopped where a signal ended it.
    """
    folder = batch.folder
    make_writable(folder, name=msg("the batch's folder"))
    datasets = SharedDatasets(folder=folder / "datasets")
    preparation = SharedPreparation(environ=environ, inspect=datasets.inspect)
    with (
        lock_run(RunDir(folder)),
        WarmTrainer(log=folder / "worker.log") as warm,
        stop_on_signals() as stop,
    ):
        session = Session(
            prepare=preparation.prepare,
            launch=warm.launch,
            empty_card=warm.rest,
            corrections={},
            latents=folder / "latents",
            ends_machine=False,
        )
        queue = Queue(
            batch=batch,
            environ=environ,
            make_screen=make_screen,
            session=session,
            preparation=preparation,
        )
        screen = make_screen(batch.jobs[0])
        with screen:
            queue.prepare_all(screen)
        _run_all(queue, screen, stop)
    show_records(screen, [queue.record(job) for job in batch.jobs], folder)
    code = queue.exit_code()
    if code in _NOTHING_LEFT:
        _end_machine(batch.jobs[0], environ, screen)
    return code


_NOTHING_LEFT = (ExitCode.DELIVERED, ExitCode.TRAINING, ExitCode.BUDGET)
"""Ends of a batch after which nothing on this machine waits to be delivered."""


def _end_machine(job: Request, environ: Mapping[str, str], screen: Screen) -> None:
    """Stop or remove this machine where the jobs' settings request it."""
    host = find_host(environ, secrets_from(environ)[0])
    problem = end_host(job.settings, host, environ, usd_per_hour=None, report=screen.say)
    if problem:
        screen.problem(problem)


def _run_all(queue: Queue, screen: Screen, stop: StopRequest) -> None:
    """Raises Stopped."""
    jobs, most = queue.waiting(), queue.batch.options.stop_after
    for number, job in enumerate(jobs, start=1):
        if stop.signal is not None:
            raise Stopped(
                msg("stopped by a signal between two jobs"), fix=msg("start the same batch again")
            )
        if most is not None and queue.failures >= most:
            screen.say(f"{queue.failures} jobs failed: no further one is started (stop_after)")
            return
        screen.say(f"\n{job.settings.output_name}: job {number} of {len(jobs)}")
        queue.run(job)


def show_records(screen: Screen, records: Sequence[JobRecord], folder: Path) -> None:
    """Each job in a line, and where the page is."""
    width = max(len(each.name) for each in records)
    screen.say()
    for each in records:
        parts = [each.state, duration(each.seconds)]
        parts += [f"loss {each.loss:.4f}"] if each.loss is not None else []
        parts += [f"${each.cost_usd:.2f}"] if each.cost_usd is not None else []
        parts += [each.problems[0]] if each.problems else []
        screen.say(f"{each.name:<{width}}  " + "  ".join(parts))
    screen.say(f"all of it: {folder / 'batch.html'}")


def work_of(prepared: Prepared) -> float:
    """The work of a job, to compare jobs: pixels seen, weighted by what a step of the base
    costs."""
    plan = prepared.plan
    width, height = plan.resolution
    weight = _SDXL_WORK if plan.base.family == "sdxl" else 1.0
    images = plan.options.train_batch_size * plan.length.num_steps
    images *= prepared.settings.gradient_accumulation_steps
    return images * width * height * weight


def within(job: Request, options: BatchOptions, records: Sequence[JobRecord]) -> Request | None:
    """The job with the batch's remaining money and time as its limits; None where nothing
    remains."""
    settings, changed = job.settings, dict[str, float]()
    if options.max_cost_usd is not None:
        left = options.max_cost_usd - sum(each.cost_usd or 0.0 for each in records)
        if left <= 0:
            return None
        changed["max_cost_usd"] = min(settings.max_cost_usd, left)
    if options.max_hours is not None:
        left = options.max_hours - sum(each.seconds for each in records) / 3600
        if left <= 0:
            return None
        changed["max_hours"] = min(settings.max_hours or left, left)
    if not changed:
        return job
    set_at = dict.fromkeys(changed, "what is left for all jobs")
    return replace(
        job, settings=settings.model_copy(update=changed), set_at={**job.set_at, **set_at}
    )


def _delivered(record: JobRecord, outcome: Outcome | AlreadyDelivered) -> JobRecord:
    match outcome:
        case AlreadyDelivered(delivered_to=where):
            steps = record.num_steps
        case Outcome(trained=trained, delivered=delivered):
            where, steps = tuple(each.destination for each in delivered.at), trained.step
    return replace(
        record,
        state="delivered",
        exit_code=ExitCode.DELIVERED,
        steps=steps,
        destinations=where,
    )


def _spent(
    record: JobRecord, job: Request, seconds: float, preparation: SharedPreparation
) -> JobRecord:
    """The record with this start's time and money, and how far the training got."""
    run_dir = job.settings.run_dir
    loss, step = last_loss(run_dir.events)
    gpu = preparation.gpu_name(job)
    price = price_of(
        set_by_user=job.settings.price_per_hour, gpu_name=gpu, num_gpus=job.settings.num_processes
    )
    cost = record.cost_usd
    if price is not None:
        cost = (cost or 0.0) + seconds / 3600 * price.usd_per_hour
    return replace(
        record,
        seconds=record.seconds + seconds,
        cost_usd=cost,
        loss=loss,
        steps=max(step, record.steps),
    )
