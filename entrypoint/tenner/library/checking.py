"""`tenner.check`: dataset and settings judged as a training would take them, on any machine."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenner.core.errors import Problem
    from tenner.dataset.check import CheckResult
    from tenner.hardware import Machine
    from tenner.library.listening import OnEvent
    from tenner.library.requests import Given
    from tenner.pipeline.without_card import Judged
    from tenner.ui.screen import Screen


def check(
    settings: "Given",
    *,
    page: str | Path | None = None,
    on_event: "OnEvent | None" = None,
    environ: Mapping[str, str] | None = None,
    preset: str | None = None,
    screen: "Screen | None" = None,
) -> "CheckResult":
    """Judge every image, caption and setting; write the contact sheet to `page`.

    The base model need not be here. What forbids a training is among the result's `findings` and
    `settings_errors`, and `is_trainable` is false then. `on_event` is called with the progress.

    Raises SettingsError where the settings cannot be read, DatasetError where there is nothing to
    look at.
    """
    from tenner.core.temporary_files import temporary_folder
    from tenner.library.listening import Listener
    from tenner.library.requests import environ_of, request_of
    from tenner.pipeline.preflight import inspect_own_machine
    from tenner.pipeline.without_card import judge_without_card

    given = environ_of(environ)
    request = request_of(settings, given, preset=preset)
    machine = inspect_own_machine(request.settings, given)
    judged = judge_without_card(request, given, machine=machine)
    listener = Listener(on_event=on_event, screen=screen)
    with temporary_folder("check") as folder:
        with listener:
            result = _look(judged, given, Path(folder) if page else None, listener)
        if listener.failure:
            raise listener.failure
        result = _with_settings(result, judged, machine)
        if page:
            from tenner.dataset.sheet import write_sheet

            write_sheet(result, Path(page))
    return result


def _look(
    judged: "Judged", environ: Mapping[str, str], thumbs: Path | None, listener: "Screen"
) -> "CheckResult":
    """The dataset, read and judged. Raises DatasetError, or with it what the settings lack."""
    from tenner.core.errors import DatasetError, SettingsError, errors_in
    from tenner.core.events import Phase
    from tenner.dataset.check import check as check_dataset
    from tenner.pipeline.everything_wrong import most_urgent
    from tenner.pipeline.preflight import dataset_request, fetching

    assumed = judged.assumed
    needed = dataset_request(judged.request, assumed.family, assumed.resolution, environ)

    def decoded(done: int, total: int) -> None:
        listener.show(Phase(name="check", detail="images decoded", done=done, total=total))

    def fetched(done: int, total: int | None) -> None:
        listener.show(fetching(done, total))

    try:
        return check_dataset(needed, thumbs, decoded, fetched)
    except DatasetError as error:
        if errors := errors_in(judged.problems):
            raise most_urgent([SettingsError(problems=errors), error]) from error
        raise


def _with_settings(result: "CheckResult", judged: "Judged", machine: "Machine") -> "CheckResult":
    """The result with what is to be reported of the settings and of a base that is assumed."""
    from tenner.core.errors import errors_in
    from tenner.core.secrets import redact_problem

    problems = tuple(redact_problem(each) for each in _problems(judged, machine, result))
    for each in problems:
        result = result.with_finding("settings", each)
    if judged.assumed.notice:
        result = result.with_finding("assumed_base", judged.assumed.notice)
    return replace(result, settings_errors=errors_in(problems))


def _problems(judged: "Judged", machine: "Machine", result: "CheckResult") -> "tuple[Problem, ...]":
    """What is to be reported of the settings, with what card and dataset decide where that is
    known."""
    from tenner.core.errors import MachineError, SettingsError, errors_in
    from tenner.dataset.inspection import hold_out
    from tenner.pipeline.run_captions import expected_drafting_seconds
    from tenner.pipeline.without_card import judge_limits, judge_shape, likely_ground
    from tenner.planning.decision import too_few_left
    from tenner.planning.keep_tokens import keep_tokens_for
    from tenner.planning.shaping import shape_run

    found, settings, trigger = list(judged.problems), judged.request.settings, result.trigger
    share = settings.validation_split if judged.trainer == "native" else 0.0  # sd-scripts' own
    trained, held_out = hold_out(result.images, share, settings.seed)
    found += too_few_left(trained, held_out)
    buckets = replace(result, images=trained).images_by_bucket()
    if buckets and not errors_in(found):
        try:
            ground = likely_ground(judged, machine, buckets)
            shaped = shape_run(settings, ground)
            found += judge_shape(judged, ground, shaped=shaped)
            found += keep_tokens_for(settings, trained, trigger)[1]
            if machine.has_gpu and ground.device == "cuda":
                drafting = expected_drafting_seconds(
                    settings, result.findings, has_card=True, num_cpus=machine.host.cpus
                )
                found += judge_limits(judged, ground, shaped, trained, trigger, drafting)
        except SettingsError as error:
            found += error.problems
        except MachineError:
            pass  # no card here takes the job, and there are others
    return tuple(dict.fromkeys(found))
