"""The run, top to bottom: the one place where all of it can be read.

Only frozen nouns pass between the stages. What is checked before the training costs nothing; what
comes after believes only what it has read back.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tenner.clip_tokenizers import write_clip_tokenizers
from tenner.dataset.captions import one_wording
from tenner.delivery import (
    Delivered,
    Destination,
    parse_destinations,
)
from tenner.delivery.check import check_destinations
from tenner.engines import Command
from tenner.engines.start import not_in_own_engine, own_engine, sd_scripts_engine, train_items
from tenner.errors import SettingsError, TennerError, errors_in
from tenner.event_log import EventLog
from tenner.events import Failed, Phase
from tenner.fingerprint import check_fingerprint
from tenner.handover import default_destination, deliver_run
from tenner.live_page import LivePage
from tenner.plan import plan_json
from tenner.preparation import Prepared, fetching, num_cpus
from tenner.report.facts import ConceptFact, FileFact, TimingFact
from tenner.report_facts import sample_set
from tenner.run_dir import RunDir, write_atomically, write_json
from tenner.run_lock import lock_run
from tenner.sample.job import Cell
from tenner.sampling import Drawn, draw, grid_cells, lay_out
from tenner.screen import Screen
from tenner.secrets import secrets_from
from tenner.serve import serving
from tenner.session import ALONE, Session
from tenner.settings import Request
from tenner.settings.saved import settings_toml
from tenner.stage import Stage
from tenner.supervise import stop_on_signals
from tenner.training import Engine, Trained, note_trained, train, trained_before

GRACE_SECONDS = 8.0
"""Docker kills ten seconds after SIGTERM; two are kept for what comes after the engine."""


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


DrawMore = Callable[[Prepared, Trained, "Artist"], tuple[ConceptFact, ...]]
"""What a caller measures on further pictures of the trained LoRA."""


@dataclass(frozen=True, kw_only=True)
class Artist:
    """Draws pictures of one trained LoRA."""

    prepared: Prepared
    trained: Trained
    place: RunDir
    stage: Stage

    def draw(self, cells: tuple[Cell, ...], folder: Path) -> Drawn | None:
        prepared = self.prepared
        return draw(
            cells,
            folder,
            settings=prepared.settings,
            plan=prepared.plan,
            weights=self.trained.weights.path,
            python=prepared.engine.python,
            tokenizers=_tokenizers(prepared, self.place),
            place=self.place,
            environ=_environ(prepared, self.stage),
            stop=self.stage.stop,
            grace_seconds=GRACE_SECONDS,
            on_event=self.stage.tell,
            cpus=num_cpus(prepared.machine),
            launch=self.stage.session.launch,
        )


def run(
    request: Request,
    environ: Mapping[str, str],
    screen: Screen,
    *,
    measure: DrawMore | None = None,
    measure_definition: str = "",
    session: Session = ALONE,
) -> Outcome:
    """One run from settings to verified delivery. Raises TennerError with its exit code."""
    secrets, problems = secrets_from(environ)
    asked, wrong = parse_destinations(request.settings.destinations)
    if errors_in([*problems, *wrong]):
        raise SettingsError(problems=errors_in([*problems, *wrong]))
    settings = request.settings
    place = RunDir(Path(settings.output_dir).expanduser() / settings.output_name).create()
    destinations = asked or (default_destination(place),)
    with lock_run(place), EventLog(place.events) as log, stop_on_signals() as stop, screen:
        stage = Stage(
            screen=screen, log=log, stop=stop, environ=environ, secrets=secrets, session=session
        )
        try:
            prepared = _prepare(request, place, stage, destinations)
            with (
                LivePage(prepared=prepared, place=place, tell=stage.tell, secrets=secrets) as page,
                serving(settings, place, secrets, environ, say=screen.say),
            ):
                stage.listeners.append(page.hear)
                return _train_and_deliver(
                    prepared, place, stage, page, destinations, measure, measure_definition
                )
        except TennerError as error:
            for problem in error.problems:
                text, fix = secrets.redact(problem.text), secrets.redact(problem.fix)
                log.append(Failed(kind="other", text=text, fix=fix))
            raise


def _prepare(
    request: Request, place: RunDir, stage: Stage, destinations: tuple[Destination, ...]
) -> Prepared:
    """Everything that is checked before the training, and written down."""
    prepared = stage.session.prepare(
        request,
        stage.environ,
        place.path / "dataset",
        on_stage=stage.begin,
        on_image=lambda done, total: stage.screen.show(
            Phase(name="dataset", detail="images decoded", done=done, total=total)
        ),
        on_bytes=lambda done, total: stage.screen.show(fetching(done, total)),
    )
    if prepared.engine.name == "diffusers":
        unsupported = not_in_own_engine(request.settings)
        if unsupported:
            raise SettingsError(problems=unsupported)
    stage.begin("checking", "write access to " + ", ".join(map(str, destinations)))
    problems = check_destinations(
        destinations, secrets=stage.secrets, job=prepared.plan.output_name, env=stage.environ
    )
    if errors_in(problems):
        raise SettingsError(problems=errors_in(problems))
    for notice in (*prepared.plan.notices, *problems):
        stage.screen.problem(notice)
    for choice in prepared.plan.choices:
        stage.screen.say(f"  {choice.name}: {choice.value} ({choice.reason})")
    check_fingerprint(prepared, place)
    write_atomically(place.settings, settings_toml(request))
    write_json(place.dataset, prepared.dataset.to_json())
    write_json(place.plan, plan_json(prepared.plan))
    return prepared


def _train_and_deliver(
    prepared: Prepared,
    place: RunDir,
    stage: Stage,
    page: LivePage,
    destinations: tuple[Destination, ...],
    measure: DrawMore | None,
    measure_definition: str,
) -> Outcome:
    name = prepared.plan.output_name
    trained = trained_before(place) or _train(prepared, place, stage)
    artist = Artist(prepared=prepared, trained=trained, place=place, stage=stage)
    drawn = _draw_grid(artist, name) if not prepared.settings.no_samples else None
    concept = measure(prepared, trained, artist) if measure else ()
    timings = [TimingFact(name="training", seconds=trained.seconds)]
    if drawn:
        timings.append(TimingFact(name="samples", seconds=drawn.seconds))
        page.add(sample_sets=(sample_set(drawn),))
    page.add(
        lora_file=trained.weights.path.name,
        concept=concept,
        concept_definition=measure_definition if concept else "",
        timings=tuple(timings),
    )
    page.settle()
    page.write("trained")
    stage.begin("delivering", ", ".join(map(str, destinations)))
    delivered = deliver_run(
        place,
        destinations,
        name=name,
        secrets=stage.secrets,
        environ=stage.environ,
        on_event=stage.tell,
    )
    page.add(files=_file_facts(delivered))
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


def _train(prepared: Prepared, place: RunDir, stage: Stage) -> Trained:
    stage.begin("training", f"{prepared.plan.length.num_steps} steps")
    trained = train(
        _engine(prepared, place, stage),
        place,
        environ=_environ(prepared, stage),
        stop=stage.stop,
        grace_seconds=GRACE_SECONDS,
        on_event=stage.tell,
    )
    if trained.finished:
        note_trained(trained, place)
    return trained


def _engine(prepared: Prepared, place: RunDir, stage: Stage) -> Engine:
    """The engine of the plan, its processes started as the session starts them."""
    engine = _engine_of_plan(prepared, place, stage.session.latents)
    environ = _environ(prepared, stage)

    def command(state: Path | None) -> Command:
        return stage.session.launch(engine.command(state), environ)

    return replace(engine, command=command)


def _environ(prepared: Prepared, stage: Stage) -> dict[str, str]:
    """What the run's processes are started with: the cards they may see, and no secret."""
    return {**stage.child_environ, **prepared.machine.child_env}


def _engine_of_plan(prepared: Prepared, place: RunDir, latents: Path | None) -> Engine:
    cpus = num_cpus(prepared.machine)
    tokenizers = _tokenizers(prepared, place)
    if prepared.engine.name == "diffusers":
        return own_engine(
            prepared.plan,
            place,
            prepared.engine,
            items=train_items(prepared.dataset, random_crop=prepared.settings.random_crop),
            tokenizers=tokenizers,
            latents=latents,
            cpus=cpus,
        )
    return sd_scripts_engine(
        prepared.plan,
        place,
        prepared.engine,
        train_data_dir=prepared.dataset.train_dir,
        reg_data_dir=prepared.dataset.reg_dir,
        tokenizers=write_clip_tokenizers(place.tokenizers).absolute(),
        cpus=cpus,
    )


def _tokenizers(prepared: Prepared, place: RunDir) -> Path | None:
    """CLIP's tokenizers where the base brings none of its own."""
    if prepared.base.layout == "diffusers":
        return None
    return write_clip_tokenizers(place.tokenizers).absolute()


def _draw_grid(artist: Artist, name: str) -> Drawn | None:
    dataset = artist.prepared.dataset
    captions = [one_wording(image.caption) for image in dataset.images if not image.is_reg]
    cells = grid_cells(artist.prepared.settings, captions, dataset.trigger)
    artist.stage.begin("sampling", f"{len(cells)} pictures")
    drawn = artist.draw(cells, artist.place.samples / "final")
    return lay_out(drawn, artist.place.samples / "grid.png", title=name) if drawn else None


def _file_facts(delivered: Delivered) -> tuple[FileFact, ...]:
    where = ", ".join(each.destination for each in delivered.at)
    return tuple(
        FileFact(name=each.name, size_bytes=each.size, sha256=each.sha256, where=where)
        for each in delivered.manifest.files
    )
