"""`tenner.plan` and `tenner.compare`: what a run would do, before anything is paid for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenner.core.errors import Problem
    from tenner.library.requests import Given
    from tenner.pipeline.comparing import Comparison
    from tenner.planning.plan import Plan
    from tenner.planning.prepared import Prepared
    from tenner.runs.disk import DiskNeed
    from tenner.settings import Request
    from tenner.storage.destination import Destination


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """What a run on this machine would do. `num_image_passes` are images seen in an epoch, `disk`
    what the run takes of it, `notices` warnings and notes."""

    plan: "Plan"
    num_images: int
    num_image_passes: int
    disk: "DiskNeed"
    notices: "tuple[Problem, ...]"

    def to_json(self) -> dict[str, Any]:
        """As `tenner plan --json` prints it."""
        from tenner.planning.plan import plan_json

        notices = problems_json(self.notices)
        return {**plan_json(self.plan), "disk_bytes": self.disk.here, "notices": notices}


def plan(
    settings: "Given",
    *,
    environ: Mapping[str, str] | None = None,
    preset: str | None = None,
) -> PlanResult:
    """What `train` would do on this machine with the same settings, its time and its cost.

    Raises TennerError with everything that would end the run before its training.
    """
    from tenner.core.errors import TennerError
    from tenner.core.temporary_files import temporary_folder
    from tenner.library.requests import environ_of, request_of
    from tenner.pipeline.everything_wrong import everything_wrong

    given = environ_of(environ)
    request = request_of(settings, given, preset=preset)
    with temporary_folder("plan") as folder:
        try:
            return _planned(request, given, Path(folder))
        except TennerError as error:
            raise everything_wrong(error, request, given, decodes=False) from error


def compare(
    settings: "Given",
    gpus: Sequence[str] = ("all",),
    *,
    environ: Mapping[str, str] | None = None,
    preset: str | None = None,
) -> "Comparison":
    """The same run on cards that need not be in this machine, at each provider, cheapest first.

    Neither card nor base model need be here. Raises SettingsError for an unknown card and where the
    job is refused on each of them, DatasetError for the dataset.
    """
    from tenner.core.temporary_files import temporary_folder
    from tenner.library.requests import environ_of, request_of
    from tenner.pipeline.comparing import compare as compare_cards
    from tenner.pipeline.comparing import find_cards, read_job

    given = environ_of(environ)
    cards = find_cards(gpus)
    with temporary_folder("plan") as folder:
        job = read_job(request_of(settings, given, preset=preset), given, Path(folder))
        return compare_cards(job, cards)


def problems_json(problems: "Sequence[Problem]") -> list[dict[str, str]]:
    """Problems as programs read them."""
    return [{"level": each.level, "text": each.text, "fix": each.fix} for each in problems]


def _planned(request: "Request", environ: Mapping[str, str], folder: Path) -> PlanResult:
    from tenner.pipeline.preflight import Preflight, prepare
    from tenner.pipeline.surroundings import read_surroundings
    from tenner.planning.judging import raise_errors
    from tenner.runs.disk import disk_need

    around = read_surroundings(request.settings, environ)
    raise_errors(around.problems)
    checks = Preflight(try_card=False, fetches_base=False, decodes=False)
    prepared = prepare(request, environ, folder, checks=checks)
    full = _judge_disks(prepared, around.destinations)
    return PlanResult(
        plan=prepared.plan,
        num_images=prepared.dataset.num_images,
        num_image_passes=prepared.dataset.num_image_passes,
        disk=disk_need(prepared.plan),
        notices=(*around.problems, *prepared.plan.notices, *full),
    )


def _judge_disks(
    prepared: "Prepared", destinations: "Sequence[Destination]"
) -> "tuple[Problem, ...]":
    """Warnings of disks that are too small, here and at folders that are destinations. Raises
    TennerError where `train` would."""
    from tenner.core.errors import MachineError, SettingsError, TennerError, errors_in
    from tenner.pipeline.everything_wrong import most_urgent
    from tenner.runs.disk import disk_problem, full_destinations
    from tenner.runs.handover import default_destination

    settings, run_dir = prepared.settings, prepared.settings.run_dir
    to, states = destinations or (default_destination(run_dir),), settings.keep_remote_states
    there = full_destinations(prepared.plan, run_dir, to, num_remote_states=states)
    here = disk_problem(prepared.plan, run_dir, to, num_remote_states=states)
    errors: list[TennerError] = []
    if wrong := errors_in(there):
        errors.append(SettingsError(problems=wrong))
    if here:
        errors.append(MachineError(problems=[here]))
    if errors:
        raise most_urgent(errors)
    return there
