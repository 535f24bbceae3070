"""The run, top to bottom: the one place where all of it can be read.

Only frozen nouns pass between the stages. What is checked before the training costs nothing; what
comes after believes only what it has read back.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

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
from tenner.core.events import Failed, Phase, Warned
from tenner.core.files import write_atomically, write_json
from tenner.core.last_handler import as_tenner_error
from tenner.core.places import make_writable
from tenner.core.run_dir import RunDir
from tenner.hardware.prices import Price
from tenner.pipeline.everything_wrong import everything_wrong, in_turn
from tenner.pipeline.fitting import engine_for
from tenner.pipeline.predicting import with_measured_prediction
from tenner.pipeline.preflight import ALONE, fetching
from tenner.pipeline.probing import with_measured_batch
from tenner.pipeline.rented import Rented
from tenner.pipeline.sampler import ENGINE_SHARE, Sampler, child_environ, early_look
from tenner.pipeline.stop_when import StopWhen
from tenner.pipeline.surroundings import read_surroundings
from tenner.pipeline.weights_check import judge_weights
from tenner.planning.plan import plan_json
from tenner.planning.prepared import Prepared
from tenner.report.facts import ConceptFact, TimingFact
from tenner.report.live_page import LivePage
from tenner.report.run_facts import sample_set
from tenner.runs.attempt import Attempt, begin_attempt, trained_before
from tenner.runs.card import write_card
from tenner.runs.check_destinations import check_destinations
from tenner.runs.context import RunContext
from tenner.runs.deliver import Delivered
from tenner.runs.disk import disk_problem, full_destinations
from tenner.runs.handover import default_destination, deliver_persistently, deliver_run, file_facts
from tenner.runs.leftovers import remove_all_leftovers, remove_leftovers
from tenner.runs.resume import machine_name, set_aside
from tenner.runs.run_lock import lock_run
from tenner.runs.session import Session
from tenner.sample.job import Drawn
from tenner.serve import serving
from tenner.settings import Request
from tenner.settings.published import published_request
from tenner.settings.saved import settings_toml
from tenner.storage.destination import Destination
from tenner.supervision.card_watch import watching
from tenner.supervision.supervise import stop_on_signals
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
) -> Outcome | AlreadyDelivered:
    """One run from settings to verified delivery. Raises TennerError with its exit code.

    With `restart` a run that is there already is kept aside, and this one starts afresh.
    """
    settings = request.settings
    around = read_surroundings(settings, environ)
    if errors := errors_in(around.problems):
        raise everything_wrong(SettingsError(problems=errors), request, environ)
    for each in around.problems:
        screen.problem(each)
    secrets, host, destinations = around.secrets, around.host, around.destinations
    run_dir = RunDir(Path(settings.output_dir).expanduser() / settings.output_name)
    for folder in (run_dir.path, run_dir.checkpoints, run_dir.state, run_dir.samples):
        make_writable(folder, name="the run's folder")
    with lock_run(run_dir):
        if restart and (aside := set_aside(run_dir)):
            screen.say(f"the run that was here is kept in {aside}")
        to = destinations or (default_destination(run_dir),)
        remove_leftovers(run_dir, to, settings.output_name)
        with EventLog(run_dir.events) as log, stop_on_signals() as stop, screen:
            context = RunContext(
                screen=screen,
                log=log,
                stop=stop,
                environ=environ,
                secrets=secrets,
                session=session,
                grace_seconds=settings.grace_seconds,
            )
            with Notifier.of(settings, secrets, on_event=context.tell) as news:
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
                    _tell_of(error, context, news)
                    if error.is_brought_out and stop.signal is None and session.ends_machine:
                        machine.end()
                    raise
                if session.ends_machine:
                    machine.end()
                return ended


@contextlib.contextmanager
def _foreseen(run_dir: RunDir, environ: Mapping[str, str]) -> Generator[None]:
    """Whatever goes wrong comes out as a TennerError, so that it is kept and told as any other."""
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
    life = _begin(request, run_dir, machine, destinations, afresh=restart)
    if life.is_delivered():
        life.recorder.note(ending="delivered before")
        return AlreadyDelivered(run_dir=run_dir, delivered_to=life.book.now.delivered_to)
    page = LivePage(
        prepared=life.prepared,
        run_dir=run_dir,
        tell=context.tell,
        budget=life.budget,
        started=context.started,
        send=life.send_page,
        secrets=context.secrets,
    )
    with (
        page,
        serving(settings, run_dir, context.secrets, context.environ, say=context.screen.say),
        life,
    ):
        early = StopWhen(
            wanted=settings.stop_when, run_dir=run_dir, curve=lambda: page.curve, tell=context.tell
        )
        context.listeners.extend((page.hear, news.hear, early.hear))
        news.tell("started", f"{life.plan.length.num_steps} steps on {machine_name(life.prepared)}")
        try:
            outcome = _train_and_deliver(life, page, news, measure, measure_definition)
        except OSError as error:
            raise life.hand_over(known_error(error, run_dir)) from error
    news.tell("delivered", ", ".join(each.destination for each in outcome.delivered.at))
    return outcome


def known_error(error: TennerError | OSError, run_dir: RunDir) -> TennerError:
    """A disk that takes no more, met anywhere, as an error of the machine. Raises any other
    OSError."""
    disk = cause_in_disk(error)
    if disk is not None and isinstance(error, OSError | SettingsError | DatasetError):
        return MachineError(problems=[disk_failure(disk, run_dir.path)])
    if isinstance(error, OSError):
        raise error
    return error


def _tell_of(error: TennerError, context: RunContext, news: Notifier) -> None:
    """Keep how a run ended badly, and tell it to who wants to know."""
    for problem in error.problems:
        text, fix = context.secrets.redact(problem.text), context.secrets.redact(problem.fix)
        if problem.level == "error":
            context.log.append(Failed(kind="other", text=text, fix=fix))
    match error:
        case Stopped():
            news.tell("stopped", str(error))
        case BudgetReached():
            news.tell("budget", str(error))
        case _:
            news.tell("failed", str(error))


def _begin(
    request: Request,
    run_dir: RunDir,
    machine: Rented,
    destinations: tuple[Destination, ...],
    *,
    afresh: bool,
) -> Attempt:
    """Everything before the training. Nothing can be lost yet: a signal ends it at once."""
    context = machine.context
    try:
        with context.stop.at_once():
            price = machine.price()
            prepared = _prepare(request, run_dir, context, destinations, price)
            prepared = with_measured_prediction(
                prepared,
                note=run_dir.path / "prediction.json",
                environ=context.child_environ,
                stop=context.stop,
                say=context.begin,
            )
            if not run_dir.ledger.is_file():
                prepared = with_measured_batch(
                    prepared,
                    environ=context.child_environ,
                    stop=context.stop,
                    say=context.begin,
                    session=context.session,
                )
            life = begin_attempt(
                prepared,
                run_dir,
                context,
                destinations,
                price_per_hour=price.usd_per_hour if price else None,
                afresh=afresh,
            )
    except KeyboardInterrupt:
        raise Stopped("stopped by a signal before the training", fix="start it again") from None
    write_atomically(run_dir.settings, settings_toml(request))
    write_atomically(run_dir.shared_settings, settings_toml(published_request(request)))
    write_json(run_dir.dataset, prepared.dataset.to_json())
    write_json(run_dir.plan, plan_json(life.plan))
    return life


def _prepare(
    request: Request,
    run_dir: RunDir,
    context: RunContext,
    destinations: tuple[Destination, ...],
    price: Price | None,
) -> Prepared:
    """Everything that is checked before the training, and written down."""
    try:
        prepared = context.session.prepare(
            request,
            context.environ,
            run_dir.path / "dataset",
            on_stage=context.begin,
            on_image=lambda done, total: context.screen.show(
                Phase(name="dataset", detail="images decoded", done=done, total=total)
            ),
            on_bytes=lambda done, total: context.screen.show(fetching(done, total)),
            host_price=price,
        )
    except TennerError as error:
        raise everything_wrong(
            error, request, context.environ, destinations=destinations, secrets=context.secrets
        ) from error
    context.begin("checking", "write access to " + ", ".join(map(str, destinations)))
    problems = check_destinations(
        destinations,
        secrets=context.secrets,
        job=prepared.plan.output_name,
        env=context.environ,
        on_trouble=lambda text: context.tell(Warned(text=text)),
    )
    states = prepared.settings.keep_remote_states
    problems += full_destinations(prepared.plan, run_dir, destinations, kept_states=states)
    full = disk_problem(prepared.plan, run_dir, destinations, kept_states=states)
    errors = [SettingsError(problems=each) for each in [errors_in(problems)] if each]
    errors += [MachineError(problems=[full])] if full else []
    if errors:
        raise in_turn(errors)
    for notice in (*prepared.plan.notices, *problems):
        context.screen.problem(notice)
    for choice in prepared.plan.choices:
        context.screen.say(f"  {choice.name}: {choice.value} ({choice.reason})")
    return prepared


def _train_and_deliver(
    life: Attempt,
    page: LivePage,
    news: Notifier,
    measure: DrawMore | None,
    measure_definition: str,
) -> Outcome:
    prepared, run_dir, context = life.prepared, life.run_dir, life.context
    with early_look(prepared, life.plan, run_dir, context, page, life.uploader) as looks:
        context.listeners.append(looks.hear)
        trained = trained_before(life.book.now.finished, run_dir) or _train(life, page)
        looks.finish()
    _judge(life, page, trained)
    sampler = Sampler(
        prepared=prepared, weights=trained.weights.path, run_dir=run_dir, context=context
    )
    draws = not prepared.settings.no_samples and life.has_time_to_draw()
    drawn = sampler.draw_grid() if draws else None
    concept = measure(prepared, trained, sampler) if measure else ()
    timings = [TimingFact(name="training", seconds=trained.seconds)]
    if drawn:
        timings.append(TimingFact(name="samples", seconds=drawn.seconds))
        page.add_samples(sample_set(drawn))
        news.tell("sample", "the grid of strengths and seeds is drawn")
    page.add(
        lora_file=trained.weights.path.name,
        concept=concept,
        concept_definition=measure_definition if concept else "",
        timings=tuple(timings),
    )
    page.settle()
    page.write("trained")
    write_card(prepared, run_dir, drawn, life.destinations, num_steps=trained.step)
    delivered = _deliver(life)
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


def _judge(life: Attempt, page: LivePage, trained: Trained) -> None:
    """Raise TrainingError where the weights learnt nothing. They are kept, and brought out as
    those of any failed training are."""
    context = life.context
    if context.stop.signal is not None:
        return
    judged = judge_weights(life.prepared, life.run_dir, context, trained)
    page.add(weights=judged.facts)
    if judged.error is None:
        return
    if context.stop.signal is None:
        page.bring_out(judged.error)
        life.send_card(judged.error)
    raise life.hand_over(judged.error)


def _train(life: Attempt, page: LivePage) -> Trained:
    """Train to the end. What was trained up to a failure, a limit or a signal is brought out."""
    context, prepared, run_dir = life.context, life.prepared, life.run_dir
    context.begin("training", f"{life.plan.length.num_steps} steps")
    environ = child_environ(prepared, context)
    engine = engine_for(
        prepared,
        run_dir,
        life.book,
        life.plan,
        session=context.session,
        environ=environ,
        forget=life.uploader.forget,
    )
    try:
        with watching(life.plan.device, context.environ) as card:
            trained = train(
                engine,
                run_dir,
                environ=environ,
                stop=context.stop,
                grace_seconds=ENGINE_SHARE * context.grace_seconds,
                on_event=context.tell,
                guards=(*life.guards(), *card),
            )
    except TennerError as error:
        if context.stop.signal is None:  # else the grace time is the states'
            page.bring_out(error)
            life.send_card(error)
        raise life.hand_over(error) from error
    return trained if trained.finished else life.finish_early(trained)


def _deliver(life: Attempt) -> Delivered:
    """The complete set to every destination, verified. Raises DeliveryError, Stopped."""
    context = life.context
    context.session.fence()
    context.begin("delivering", ", ".join(map(str, life.destinations)))
    life.uploader.hand_over(HURRY_SECONDS)
    life.uploader.stop()
    try:
        delivered = deliver_persistently(
            lambda: deliver_run(
                life.run_dir,
                life.destinations,
                name=life.plan.output_name,
                secrets=context.secrets,
                environ=context.environ,
                on_event=context.tell,
                deadline=life.deadline(),
            ),
            minutes=life.prepared.settings.keep_alive_minutes,
            stopped=lambda: context.stop.signal is not None,
            on_event=context.tell,
        )
    except DeliveryError as error:
        life.recorder.note(ending="not delivered")
        if context.stop.signal is None:
            raise
        raise Stopped("stopped by a signal while delivering", problems=error.problems) from error
    life.note_delivered([each.destination for each in delivered.at])
    remove_all_leftovers(life.run_dir, life.destinations, life.plan.output_name)
    return delivered
