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
from tenner.core.secrets import secrets_from
from tenner.hardware.prices import Price
from tenner.hosts import check_ending, find_host
from tenner.pipeline.everything_wrong import everything_wrong, in_turn
from tenner.pipeline.fitting import engine_for
from tenner.pipeline.predicting import with_measured_prediction
from tenner.pipeline.preflight import ALONE, fetching
from tenner.pipeline.probing import with_measured_batch
from tenner.pipeline.rented import Rented
from tenner.pipeline.sampler import ENGINE_SHARE, Artist, child_environ, early_look
from tenner.pipeline.stop_when import StopWhen
from tenner.pipeline.weights_check import judge_weights
from tenner.planning.plan import plan_json
from tenner.planning.prepared import Prepared
from tenner.report.facts import ConceptFact, TimingFact
from tenner.report.live_page import LivePage
from tenner.report.run_facts import sample_set
from tenner.runs.attempt import RunLife, begin_life, trained_before
from tenner.runs.card import write_card
from tenner.runs.check_destinations import check_destinations
from tenner.runs.context import Stage
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
from tenner.storage.destination import Destination, parse_destinations
from tenner.supervision.card_watch import watching
from tenner.supervision.supervise import stop_on_signals
from tenner.supervision.training import Trained, train
from tenner.ui.notify import Notifier, webhook_problems
from tenner.ui.screen import Screen

HURRY_SECONDS = 60.0
"""What the background delivery is given to end its last file before the whole set is delivered."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run that ended well: what was trained, drawn and delivered, and where."""

    place: RunDir
    prepared: Prepared
    trained: Trained
    drawn: Drawn | None
    delivered: Delivered
    seconds: float
    concept: tuple[ConceptFact, ...] = ()


DrawMore = Callable[[Prepared, Trained, Artist], tuple[ConceptFact, ...]]
"""What a caller measures on further pictures of the trained LoRA."""


@dataclass(frozen=True, kw_only=True)
class AlreadyDelivered:
    """An earlier start of this run delivered everything, and it is all still there."""

    place: RunDir
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
    secrets, problems = secrets_from(environ)
    host = find_host(environ, secrets)
    destinations, wrong = parse_destinations(settings.destinations)
    problems = (*problems, *wrong, *check_ending(settings, host), *webhook_problems(secrets))
    if errors_in(problems):
        raise SettingsError(problems=errors_in(problems))
    place = RunDir(Path(settings.output_dir).expanduser() / settings.output_name)
    for folder in (place.path, place.checkpoints, place.state, place.samples):
        make_writable(folder, name="the run's folder")
    with lock_run(place):
        if restart and (aside := set_aside(place)):
            screen.say(f"the run that was here is kept in {aside}")
        to = destinations or (default_destination(place),)
        remove_leftovers(place, to, settings.output_name)
        with EventLog(place.events) as log, stop_on_signals() as stop, screen:
            stage = Stage(
                screen=screen,
                log=log,
                stop=stop,
                environ=environ,
                secrets=secrets,
                session=session,
                grace_seconds=settings.grace_seconds,
            )
            with Notifier.of(settings, secrets, on_event=stage.tell) as news:
                machine = Rented(host=host, settings=settings, stage=stage, news=news)
                try:
                    with _foreseen(place, environ):
                        ended = _run(
                            request,
                            place,
                            machine,
                            to,
                            restart=restart,
                            measure=measure,
                            measure_definition=measure_definition,
                        )
                except TennerError as error:
                    _tell_of(error, stage, news)
                    if error.is_brought_out and stop.signal is None and session.ends_machine:
                        machine.end()
                    raise
                if session.ends_machine:
                    machine.end()
                return ended


@contextlib.contextmanager
def _foreseen(place: RunDir, environ: Mapping[str, str]) -> Generator[None]:
    """Whatever goes wrong comes out as a TennerError, so that it is kept and told as any other."""
    try:
        yield
    except TennerError as error:
        known = known_error(error, place)
        if known is error:
            raise
        raise known from error
    except Exception as error:
        raise as_tenner_error(error, environ, folders=(place.path,)) from error


def _run(
    request: Request,
    place: RunDir,
    machine: Rented,
    destinations: tuple[Destination, ...],
    *,
    restart: bool,
    measure: DrawMore | None,
    measure_definition: str,
) -> Outcome | AlreadyDelivered:
    """The stages of a run, one after the other."""
    stage, news, settings = machine.stage, machine.news, request.settings
    life = _begin(request, place, machine, destinations, afresh=restart)
    if life.is_delivered():
        life.keeper.note(ending="delivered before")
        return AlreadyDelivered(place=place, delivered_to=life.book.now.delivered_to)
    page = LivePage(
        prepared=life.prepared,
        place=place,
        tell=stage.tell,
        budget=life.budget,
        started=stage.started,
        send=life.send_page,
        secrets=stage.secrets,
    )
    with (
        page,
        serving(settings, place, stage.secrets, stage.environ, say=stage.screen.say),
        life,
    ):
        early = StopWhen(
            wanted=settings.stop_when, place=place, curve=lambda: page.curve, tell=stage.tell
        )
        stage.listeners.extend((page.hear, news.hear, early.hear))
        news.tell("started", f"{life.plan.length.num_steps} steps on {machine_name(life.prepared)}")
        try:
            outcome = _train_and_deliver(life, page, news, measure, measure_definition)
        except OSError as error:
            raise life.hand_over(known_error(error, place)) from error
    news.tell("delivered", ", ".join(each.destination for each in outcome.delivered.at))
    return outcome


def known_error(error: TennerError | OSError, place: RunDir) -> TennerError:
    """A disk that takes no more, met anywhere, as an error of the machine. Raises any other
    OSError."""
    disk = cause_in_disk(error)
    if disk is not None and isinstance(error, OSError | SettingsError | DatasetError):
        return MachineError(problems=[disk_failure(disk, place.path)])
    if isinstance(error, OSError):
        raise error
    return error


def _tell_of(error: TennerError, stage: Stage, news: Notifier) -> None:
    """Keep how a run ended badly, and tell it to who wants to know."""
    for problem in error.problems:
        text, fix = stage.secrets.redact(problem.text), stage.secrets.redact(problem.fix)
        if problem.level == "error":
            stage.log.append(Failed(kind="other", text=text, fix=fix))
    match error:
        case Stopped():
            news.tell("stopped", str(error))
        case BudgetReached():
            news.tell("budget", str(error))
        case _:
            news.tell("failed", str(error))


def _begin(
    request: Request,
    place: RunDir,
    machine: Rented,
    destinations: tuple[Destination, ...],
    *,
    afresh: bool,
) -> RunLife:
    """Everything before the training. Nothing can be lost yet: a signal ends it at once."""
    stage = machine.stage
    try:
        with stage.stop.at_once():
            price = machine.price()
            prepared = _prepare(request, place, stage, destinations, price)
            prepared = with_measured_prediction(
                prepared,
                note=place.path / "prediction.json",
                environ=stage.child_environ,
                stop=stage.stop,
                say=stage.begin,
            )
            if not place.ledger.is_file():
                prepared = with_measured_batch(
                    prepared,
                    environ=stage.child_environ,
                    stop=stage.stop,
                    say=stage.begin,
                    session=stage.session,
                )
            life = begin_life(
                prepared,
                place,
                stage,
                destinations,
                price_per_hour=price.usd_per_hour if price else None,
                afresh=afresh,
            )
    except KeyboardInterrupt:
        raise Stopped("stopped by a signal before the training", fix="start it again") from None
    write_atomically(place.settings, settings_toml(request))
    write_atomically(place.shared_settings, settings_toml(published_request(request)))
    write_json(place.dataset, prepared.dataset.to_json())
    write_json(place.plan, plan_json(life.plan))
    return life


def _prepare(
    request: Request,
    place: RunDir,
    stage: Stage,
    destinations: tuple[Destination, ...],
    price: Price | None,
) -> Prepared:
    """Everything that is checked before the training, and written down."""
    try:
        prepared = stage.session.prepare(
            request,
            stage.environ,
            place.path / "dataset",
            on_stage=stage.begin,
            on_image=lambda done, total: stage.screen.show(
                Phase(name="dataset", detail="images decoded", done=done, total=total)
            ),
            on_bytes=lambda done, total: stage.screen.show(fetching(done, total)),
            host_price=price,
        )
    except TennerError as error:
        raise everything_wrong(
            error, request, stage.environ, destinations=destinations, secrets=stage.secrets
        ) from error
    stage.begin("checking", "write access to " + ", ".join(map(str, destinations)))
    problems = check_destinations(
        destinations,
        secrets=stage.secrets,
        job=prepared.plan.output_name,
        env=stage.environ,
        on_trouble=lambda text: stage.tell(Warned(text=text)),
    )
    states = prepared.settings.keep_remote_states
    problems += full_destinations(prepared.plan, place, destinations, kept_states=states)
    full = disk_problem(prepared.plan, place, destinations, kept_states=states)
    errors = [SettingsError(problems=each) for each in [errors_in(problems)] if each]
    errors += [MachineError(problems=[full])] if full else []
    if errors:
        raise in_turn(errors)
    for notice in (*prepared.plan.notices, *problems):
        stage.screen.problem(notice)
    for choice in prepared.plan.choices:
        stage.screen.say(f"  {choice.name}: {choice.value} ({choice.reason})")
    return prepared


def _train_and_deliver(
    life: RunLife,
    page: LivePage,
    news: Notifier,
    measure: DrawMore | None,
    measure_definition: str,
) -> Outcome:
    prepared, place, stage = life.prepared, life.place, life.stage
    with early_look(prepared, life.plan, place, stage, page, life.courier) as looks:
        stage.listeners.append(looks.hear)
        trained = trained_before(life.book.now.finished, place) or _train(life, page)
        looks.finish()
    _judge(life, page, trained)
    artist = Artist(prepared=prepared, weights=trained.weights.path, place=place, stage=stage)
    draws = not prepared.settings.no_samples and life.has_time_to_draw()
    drawn = artist.draw_grid() if draws else None
    concept = measure(prepared, trained, artist) if measure else ()
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
    write_card(prepared, place, drawn, life.destinations, num_steps=trained.step)
    delivered = _deliver(life)
    page.add(files=file_facts(delivered))
    page.write("delivered")
    return Outcome(
        place=place,
        prepared=prepared,
        trained=trained,
        drawn=drawn,
        delivered=delivered,
        seconds=time.monotonic() - stage.started,
        concept=concept,
    )


def _judge(life: RunLife, page: LivePage, trained: Trained) -> None:
    """Raise TrainingError where the weights learnt nothing. They are kept, and brought out as
    those of any failed training are."""
    stage = life.stage
    if stage.stop.signal is not None:
        return
    judged = judge_weights(life.prepared, life.place, stage, trained)
    page.add(weights=judged.facts)
    if judged.error is None:
        return
    if stage.stop.signal is None:
        page.bring_out(judged.error)
        life.send_card(judged.error)
    raise life.hand_over(judged.error)


def _train(life: RunLife, page: LivePage) -> Trained:
    """Train to the end. What was trained up to a failure, a limit or a signal is brought out."""
    stage, prepared, place = life.stage, life.prepared, life.place
    stage.begin("training", f"{life.plan.length.num_steps} steps")
    environ = child_environ(prepared, stage)
    engine = engine_for(
        prepared,
        place,
        life.book,
        life.plan,
        session=stage.session,
        environ=environ,
        forget=life.courier.forget,
    )
    try:
        with watching(life.plan.device, stage.environ) as card:
            trained = train(
                engine,
                place,
                environ=environ,
                stop=stage.stop,
                grace_seconds=ENGINE_SHARE * stage.grace_seconds,
                on_event=stage.tell,
                guards=(*life.guards(), *card),
            )
    except TennerError as error:
        if stage.stop.signal is None:  # else the grace time is the states'
            page.bring_out(error)
            life.send_card(error)
        raise life.hand_over(error) from error
    return trained if trained.finished else life.finish_early(trained)


def _deliver(life: RunLife) -> Delivered:
    """The complete set to every destination, verified. Raises DeliveryError, Stopped."""
    stage = life.stage
    stage.session.fence()
    stage.begin("delivering", ", ".join(map(str, life.destinations)))
    life.courier.hand_over(HURRY_SECONDS)
    life.courier.stop()
    try:
        delivered = deliver_persistently(
            lambda: deliver_run(
                life.place,
                life.destinations,
                name=life.plan.output_name,
                secrets=stage.secrets,
                environ=stage.environ,
                on_event=stage.tell,
                deadline=life.deadline(),
            ),
            minutes=life.prepared.settings.keep_alive_minutes,
            stopped=lambda: stage.stop.signal is not None,
            on_event=stage.tell,
        )
    except DeliveryError as error:
        life.keeper.note(ending="not delivered")
        if stage.stop.signal is None:
            raise
        raise Stopped("stopped by a signal while delivering", problems=error.problems) from error
    life.note_delivered([each.destination for each in delivered.at])
    remove_all_leftovers(life.place, life.destinations, life.plan.output_name)
    return delivered
