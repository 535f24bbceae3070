"""`tenner check`: dataset and settings judged as the training would take them, on any machine."""

import json
from collections.abc import Mapping
from pathlib import Path

from tenner.core.errors import (
    DatasetError,
    ExitCode,
    MachineError,
    Problem,
    SettingsError,
    errors_in,
)
from tenner.core.events import Phase
from tenner.core.temporary_files import temporary_folder
from tenner.dataset.check import CheckResult, check, render
from tenner.dataset.sheet import write_sheet
from tenner.hardware import Machine
from tenner.pipeline.everything_wrong import most_urgent
from tenner.pipeline.preflight import dataset_request, fetching, inspect_own_machine
from tenner.pipeline.without_card import Judged, judge_shape, judge_without_card, likely_ground
from tenner.planning.kept_tags import kept_tags
from tenner.settings import Request
from tenner.ui.plain_text import print_tables
from tenner.ui.screen import make_screen


def run_check(
    request: Request,
    environ: Mapping[str, str],
    *,
    as_json: bool,
    strict: bool,
    page: Path | None,
) -> ExitCode:
    """Judge dataset and settings, print what was found, and write the contact sheet to `page`.

    The base need not be here. Raises SettingsError with what `train` would refuse of the settings,
    once the rest is printed; DatasetError only where there is nothing to look at.
    """
    machine = inspect_own_machine(request.settings, environ)
    judged = judge_without_card(request, environ, machine=machine)
    assumed = judged.assumed
    needed = dataset_request(judged.request, assumed.family, assumed.resolution, environ)
    screen = make_screen()
    with temporary_folder("check") as folder:
        with screen:
            try:
                result = check(
                    needed,
                    Path(folder) if page else None,
                    lambda done, total: screen.show(
                        Phase(name="check", detail="images decoded", done=done, total=total)
                    ),
                    lambda done, total: screen.show(fetching(done, total)),
                )
            except DatasetError as error:
                if errors := errors_in(judged.problems):
                    raise most_urgent([SettingsError(problems=errors), error]) from error
                raise
        problems = _problems(judged, machine, result)
        for each in problems:
            result = result.with_finding("settings", each)
        if assumed.notice:
            result = result.with_finding("assumed_base", assumed.notice)
        if page:
            write_sheet(result, page)
    if as_json:
        print(json.dumps(result.to_json(), ensure_ascii=False, indent=1))
    else:
        print_tables(render(result))
        if page:
            print(f"contact sheet: {page}")
    if errors := errors_in(problems):
        raise SettingsError(problems=errors)
    return result.exit_code(strict=strict)


def _problems(judged: Judged, machine: Machine, result: CheckResult) -> tuple[Problem, ...]:
    """What is to be reported of the settings, with what card and dataset decide where that is
    known."""
    found = list(judged.problems)
    buckets = result.images_by_bucket()
    if buckets and not errors_in(found):
        try:
            found += judge_shape(judged, likely_ground(judged, machine, buckets))
            found += kept_tags(judged.request.settings, result.images, result.trigger)[1]
        except SettingsError as error:
            found += error.problems
        except MachineError:
            pass  # no card here takes the job, and there are others
    return tuple(dict.fromkeys(found))
