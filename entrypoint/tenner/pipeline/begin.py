"""What of a run comes before its training: everything is checked, planned and written down."""

import contextlib
import shutil
from collections.abc import Generator

from tenner.core.errors import (
    BudgetReached,
    DatasetError,
    MachineError,
    SettingsError,
    Stopped,
    TennerError,
    errors_in,
)
from tenner.core.events import Phase, Warned
from tenner.core.files import write_atomically, write_json
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.core.writable import make_writable
from tenner.hardware.prices import Price
from tenner.pipeline.everything_wrong import everything_wrong, most_urgent
from tenner.pipeline.predicting import with_measured_prediction
from tenner.pipeline.preflight import fetching
from tenner.pipeline.probing import with_measured_batch
from tenner.pipeline.rented import Rented
from tenner.pipeline.run_captions import pack_run_drafts
from tenner.planning.plan import plan_json
from tenner.planning.prepared import Prepared
from tenner.runs.attempt import Attempt, begin_attempt
from tenner.runs.check_destinations import check_destinations
from tenner.runs.context import RunContext
from tenner.runs.disk import disk_problem, full_destinations
from tenner.runs.session import Progress
from tenner.settings import Request
from tenner.settings.published import published_request
from tenner.settings.saved import settings_toml
from tenner.storage.destination import Destination


@contextlib.contextmanager
def removed_if_refused(run_dir: RunDir) -> Generator[None]:
    """Make the folders of a run. Those that were not there before go again where the run is refused
    before it has begun, for then they hold nothing that anybody needs. One that was stopped or met
    a fault of tenner's own keeps them: images that were fetched, the report of the fault."""
    missing = [each for each in (run_dir.path, *run_dir.path.parents) if not each.exists()]
    for folder in (run_dir.path, run_dir.checkpoints, run_dir.state, run_dir.samples):
        make_writable(folder, name="the run's folder")
    try:
        yield
    except TennerError as error:
        is_refused = isinstance(error, SettingsError | DatasetError | MachineError | BudgetReached)
        if is_refused and run_dir.path in missing and not run_dir.ledger.is_file():
            shutil.rmtree(run_dir.path, ignore_errors=True)
            for parent in missing[1:]:
                with contextlib.suppress(OSError):  # somebody else has put something there
                    parent.rmdir()
        raise


def begin(
    request: Request,
    run_dir: RunDir,
    machine: Rented,
    destinations: tuple[Destination, ...],
    *,
    restart: bool,
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
                report=context.begin,
            )
            if not run_dir.ledger.is_file():
                prepared = with_measured_batch(
                    prepared,
                    environ=context.child_environ,
                    stop=context.stop,
                    report=context.begin,
                    session=context.session,
                )
            attempt = begin_attempt(
                prepared,
                run_dir,
                context,
                destinations,
                price_per_hour=price.usd_per_hour if price else None,
                restart=restart,
            )
    except KeyboardInterrupt:
        raise Stopped(
            msg("stopped by a signal before the training"), fix=msg("start it again")
        ) from None
    write_atomically(run_dir.settings, settings_toml(request))
    write_atomically(run_dir.shared_settings, settings_toml(published_request(request)))
    write_json(run_dir.dataset, prepared.dataset.to_json())
    pack_run_drafts(run_dir, prepared.settings)
    write_json(run_dir.plan, plan_json(attempt.plan))
    return attempt


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
            progress=Progress(
                on_stage=context.begin,
                on_image=lambda done, total: context.screen.show(
                    Phase(name="dataset", detail="images decoded", done=done, total=total)
                ),
                on_bytes=lambda done, total: context.screen.show(fetching(done, total)),
            ),
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
        on_trouble=lambda text: context.emit(Warned(text=text)),
    )
    states = prepared.settings.keep_remote_states
    problems += full_destinations(prepared.plan, run_dir, destinations, num_remote_states=states)
    full = disk_problem(prepared.plan, run_dir, destinations, num_remote_states=states)
    errors = [SettingsError(problems=each) for each in [errors_in(problems)] if each]
    errors += [MachineError(problems=[full])] if full else []
    if errors:
        raise most_urgent(errors)
    for notice in (*prepared.plan.notices, *problems):
        context.screen.problem(notice)
    for choice in prepared.plan.choices:
        context.screen.say(f"  {choice.name}: {choice.value} ({choice.reason})")
    return prepared
