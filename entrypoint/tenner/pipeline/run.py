"""The run, top to bottom: the one module that shows all of it.

Only frozen dataclasses pass between the stages. What is checked before the training costs nothing;
what comes after relies only on what was read back.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from tenner.core.disk_errors import cause_in_disk, disk_failure
from tenner.core.errors import (
    BudgetReached,
    DatasetError,
    DeliveryError,
    MachineError,
    SettingsError,
    Stopped,
    TennerError,
    errors_in,
)
from tenner.core.event_log import EventLog
from tenner.core.events import Failed
from tenner.core.last_handler import as_tenner_error
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.pipeline.begin import begin, removed_if_refused
from tenner.pipeline.everything_wrong import everything_wrong
from tenner.pipeline.fitting import engine_for
from tenner.pipeline.preflight import ALONE
from tenner.pipeline.rented import Rented
from tenner.pipeline.sampler import Sampler, child_control, early_sampler
from tenner.pipeline.stop_when import StopWhen
from tenner.pipeline.surroundings import read_surroundings
from tenner.pipeline.tracked import tracking
from tenner.pipeline.weights_check import judge_weights
from tenner.planning.prepared import Prepared
from tenner.report.facts import ConceptFact, TimingFact
from tenner.report.live_page import LivePage
from tenner.report.run_facts import sample_set
from tenner.runs.attempt import Attempt, trained_before
from tenner.runs.card import write_card
from tenner.runs.civitai import pack_for_civitai
from tenner.runs.context import RunContext
from tenner.runs.deliver import Delivered
from tenner.runs.handover import default_destination, deliver_persistently, deliver_run, file_facts
from tenner.runs.leftovers import remove_all_leftovers, remove_leftovers
from tenner.runs.resume import machine_name, move_earlier_run
from tenner.runs.run_lock import lock_run
from tenner.runs.session import Session
from tenner.sample.job import Drawn
from tenner.serve import serving
from tenner.settings import Request
from tenner.storage.destination import Destination
from tenner.supervision.card_watch import watching
from tenner.supervision.supervise import StopRequest, stop_on_signals
from tenner.supervision.training import Trained, train
from tenner.ui.notify import Notifier
from tenner.ui.screen import Screen

HURRY_SECONDS = 60.0
"""What the background delivery is given to end its last file before the whole set is delivered."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run that ended well: what was trained, drawn and delivered, and where."""

    run_dir: RunDir
    prepared: Prepared
    trained: Trained
    drawn: Drawn | None
    delivered: Delivered
    seconds: float
    concept: tuple[ConceptFact, ...] = ()


DrawMore = Callable[[Prepared, Trained, Sampler], tuple[ConceptFact, ...]]
"""What a caller measures on further pictures of the trained LoRA."""


@dataclass(frozen=True, kw_only=True)
class AlreadyDelivered:
    """An earlier start of this run delivered everything, and it is all still there."""

    run_dir: RunDir
    delivered_to: tuple[str, ...]


def run(
    request: Request,
    environ: Mapping[str, str],
    screen: Screen,
    *,
    restart: bool = False,
    measure: DrawMore | None = None,
    measure_definition: str = "",
    session: Session = ALONE,
    stop: StopRequest | None = None,
) -> Outcome | AlreadyDelivered:
    """One run from settings to verified delivery. Raises TennerError with its exit code.

    With `restart` an earlier run is moved out of the way, and this one starts over. SIGTERM and
    SIGINT end the run; with `stop` they are left to the caller, who requests the end there.
    """
    stopping = stop_on_signals() if stop is None else contextlib.nullcontext(stop)
    settings = request.settings
    around = read_surroundings(settings, environ)
    if errors := errors_in(around.problems):
        raise everything_wrong(SettingsError(problems=errors), request, environ)
    for each in around.problems:
        screen.problem(each)
    secrets, host, destinations = around.secrets, around.host, around.destinations
    run_dir = settings.run_dir
    with removed_if_refused(run_dir), lock_run(run_dir):
        if restart and (earlier := move_earlier_run(run_dir)):
            screen.say(f"the run that was here is now in {earlier}")
        to = destinations or (default_destination(run_dir),)
        remove_leftovers(run_dir, to, settings.output_name)
        with EventLog(run_dir.events) as log, stopping as stopper, screen:
            context = RunContext(
                screen=screen,
                log=log,
                stop=stopper,
                environ=environ,
                secrets=secrets,
                session=session,
                grace_seconds=settings.grace_seconds,
            )
            with Notifier.of(settings, secrets, on_event=context.emit) as news:
                machine = Rented(host=host, settings=settings, context=context, news=news)
                try:
                    with _foreseen(run_dir, environ):
                        ended = _run(
                            request,
                            run_dir,
                            machine,
                            to,
                            restart=restart,
                            measure=measure,
                            measure_definition=measure_definition,
                        )
                except TennerError as error:
                    _record_error(error, context, news)
                    if error.is_delivered and stopper.signal is None and session.ends_machine:
                        machine.end()
                    raise
                if session.ends_machine:
                    machine.end()
                return ended


@contextlib.contextmanager
def _foreseen(run_dir: RunDir, environ: Mapping[str, str]) -> Generator[None]:
    """Turn every exception into a TennerError, so that it is recorded and reported like any
    other."""
    try:
        yield
    except TennerError as error:
        known = known_error(error, run_dir)
        if known is error:
            raise
        raise known from error
    except Exception as error:
        raise as_tenner_error(error, environ, folders=(run_dir.path,)) from error


def _run(
    request: Request,
    run_dir: RunDir,
    machine: Rented,
    destinations: tuple[Destination, ...],
    *,
    restart: bool,
    measure: DrawMore | None,
    measure_definition: str,
) -> Outcome | AlreadyDelivered:
    """The stages of a run, one after the other."""
    context, news, settings = machine.context, machine.news, request.settings
    attempt = begin(request, run_dir, machine, destinations, restart=restart)
    if attempt.is_delivered():
        attempt.recorder.note(ending="delivered before")
        return AlreadyDelivered(run_dir=run_dir, delivered_to=attempt.book.now.delivered_to)
    page = LivePage(
        prepared=attempt.prepared,
        run_dir=run_dir,
        emit=context.emit,
        budget=attempt.budget,
        started=context.started,
        send=attempt.send_page,
        secrets=context.secrets,
    )
    with (
        page,
        serving(settings, run_dir, context.secrets, context.environ, screen=context.screen),
        attempt,
        tracking(attempt) as trackers,
    ):
        early = StopWhen(
            condition=settings.stop_when,
            run_dir=run_dir,
            curve=lambda: page.curve,
            emit=context.emit,
        )
        context.listeners.extend((page.handle, news.handle, early.handle, trackers.handle))
        news.send(
            "started", f"{attempt.plan.length.num_steps} steps on {machine_name(attempt.prepared)}"
        )
        try:
            outcome = _train_and_deliver(attempt, page, news, measure, measure_definition)
        except OSError as error:
            raise attempt.hand_over(known_error(error, run_dir)) from error
    news.send("delivered", ", ".join(each.destination for each in outcome.delivered.at))
    return outcome


def known_error(error: TennerError | OSError, run_dir: RunDir) -> TennerError:
    """A full or failed disk, met anywhere, as an error of the machine. Raises any other OSError."""
    disk = cause_in_disk(error)
    if disk is not None and isinstance(error, OSError | SettingsError | DatasetError):
        return MachineError(problems=[disk_failure(disk, run_dir.path)])
    if isinstance(error, OSError):
        raise error
    return error


def _record_error(error: TennerError, context: RunContext, news: Notifier) -> None:
    """Log how a run failed, and notify."""
    for problem in error.problems:
        text, fix = context.secrets.redact(problem.text), context.secrets.redact(problem.fix)
        if problem.level == "error":
            context.log.append(Failed(kind="other", text=text, fix=fix))
    match error:
        case Stopped():
            news.send("stopped", str(error))
        case BudgetReached():
            news.send("budget", str(error))
        case _:
            news.send("failed", str(error))


def _train_and_deliver(
    attempt: Attempt,
    page: LivePage,
    news: Notifier,
    measure: DrawMore | None,
    measure_definition: str,
) -> Outcome:
    prepared, run_dir, context = attempt.prepared, attempt.run_dir, attempt.context
    with early_sampler(
        prepared, attempt.plan, run_dir, context, page, attempt.uploader
    ) as early_samples:
        context.listeners.append(early_samples.handle)
        trained = trained_before(attempt.book.now.finished, run_dir) or _train(attempt, page)
        early_samples.finish()
    _judge(attempt, page, trained)
    sampler = Sampler(
        prepared=prepared, weights=trained.weights.path, run_dir=run_dir, context=context
    )
    draws = not prepared.settings.no_samples and attempt.has_time_to_draw()
    drawn = sampler.draw_grid() if draws else None
    concept = measure(prepared, trained, sampler) if measure else ()
    timings = [TimingFact(name="training", seconds=trained.seconds)]
    if drawn:
        timings.append(TimingFact(name="samples", seconds=drawn.seconds))
        page.add_samples(sample_set(drawn))
        if drawn.grid:
            context.screen.show_address("samples", str(drawn.grid))
        news.send("sample", "the grid of strengths and seeds is drawn")
    page.add(
        lora_file=trained.weights.path.name,
        concept=concept,
        concept_definition=measure_definition if concept else "",
        timings=tuple(timings),
    )
    page.settle()
    page.write("trained")
    write_card(prepared, run_dir, drawn, attempt.destinations, num_steps=trained.step)
    if prepared.settings.deliver_for == "civitai":
        pack_for_civitai(run_dir, prepared.plan.output_name)
    delivered = _deliver(attempt)
    page.add(files=file_facts(delivered))
    page.write("delivered")
    return Outcome(
        run_dir=run_dir,
        prepared=prepared,
        trained=trained,
        drawn=drawn,
        delivered=delivered,
        seconds=time.monotonic() - context.started,
        concept=concept,
    )


def _judge(attempt: Attempt, page: LivePage, trained: Trained) -> None:
    """Raise TrainingError where the weights learnt nothing. They are delivered like those of
    any failed training."""
    context = attempt.context
    if context.stop.signal is not None:
        return
    judged = judge_weights(attempt.prepared, attempt.run_dir, context, trained)
    page.add(weights=judged.facts)
    if judged.error is None:
        return
    if context.stop.signal is None:
        page.write_ending(judged.error)
        attempt.send_card(judged.error)
    raise attempt.hand_over(judged.error)


def _train(attempt: Attempt, page: LivePage) -> Trained:
    """Train to the end. What was trained up to a failure, a limit or a signal is delivered."""
    context, prepared, run_dir = attempt.context, attempt.prepared, attempt.run_dir
    context.begin("training", f"{attempt.plan.length.num_steps} steps")
    control = child_control(prepared, context)
    engine = engine_for(
        prepared,
        run_dir,
        attempt.book,
        attempt.plan,
        session=context.session,
        environ=control.environ,
        forget=attempt.uploader.forget,
    )
    try:
        with watching(attempt.plan.device, context.environ) as card:
            trained = train(
                engine,
                run_dir,
                control=control,
                on_event=context.emit,
                guards=(*attempt.guards(), *card),
            )
    except TennerError as error:
        if context.stop.signal is None:  # else the grace time is needed for the states
            page.write_ending(error)
            attempt.send_card(error)
        raise attempt.hand_over(error) from error
    return trained if trained.finished else attempt.finish_early(trained)


def _deliver(attempt: Attempt) -> Delivered:
    """The complete set to every destination, verified. Raises DeliveryError, Stopped."""
    context = attempt.context
    context.session.fence()
    context.begin("delivering", ", ".join(map(str, attempt.destinations)))
    attempt.uploader.hand_over(HURRY_SECONDS)
    attempt.uploader.stop()
    try:
        delivered = deliver_persistently(
            lambda: deliver_run(
                attempt.run_dir,
                attempt.destinations,
                name=attempt.plan.output_name,
                secrets=context.secrets,
                environ=context.environ,
                on_event=context.emit,
                deadline=attempt.deadline(),
            ),
            minutes=attempt.prepared.settings.keep_alive_minutes,
            stopped=lambda: context.stop.signal is not None,
            on_event=context.emit,
        )
    except DeliveryError as error:
        attempt.recorder.note(ending="not delivered")
        if context.stop.signal is None:
            raise
        raise Stopped(
            msg("stopped by a signal while delivering"), problems=error.problems
        ) from error
    attempt.note_delivered([each.destination for each in delivered.at])
    remove_all_leftovers(attempt.run_dir, attempt.destinations, attempt.plan.output_name)
    return delivered
