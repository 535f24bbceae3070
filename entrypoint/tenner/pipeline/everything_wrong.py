"""All errors of a run, reported at once: those that later checks would have reported too.

A check that ends a run ends it before the checks behind it, and a start on a rented machine costs
money. So before the error is reported, whatever can be judged without it, without the network's
gigabytes and within seconds, is looked at as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tenner.base.choice import assume_base, find_base, must_be_fetched
from tenner.base.model import Base
from tenner.core.errors import (
    DatasetError,
    MachineError,
    Problem,
    SettingsError,
    TennerError,
    errors_in,
)
from tenner.core.secrets import Secrets
from tenner.dataset import judge_dataset
from tenner.pipeline.preflight import dataset_request, inspect_own_machine
from tenner.pipeline.start_files import with_start_files
from tenner.planning.decision import choose_device
from tenner.planning.family_defaults import with_family_defaults
from tenner.planning.judging import judge_early, raise_errors
from tenner.runs.check_destinations import check_destinations
from tenner.settings import Request
from tenner.storage.destination import Destination

_BY_URGENCY = (SettingsError, DatasetError, MachineError)
"""What has to be corrected first: on another machine the same settings and images fail again."""


def everything_wrong(
    first: TennerError,
    request: Request,
    environ: Mapping[str, str],
    *,
    destinations: Sequence[Destination] = (),
    secrets: Secrets | None = None,
    decodes: bool = True,
) -> TennerError:
    """`first` and what else would have ended the run, as one error. With `decodes` off only the
    heads of images are read.

    Its exit code is that of the settings before the dataset's before the machine's.
    """
    found, bases = [first], list[Base]()

    def collect(at: Callable[[], None]) -> None:
        try:
            at()
        except TennerError as error:
            found.append(error)

    collect(lambda: bases.extend(_base(request, environ)))
    base = bases[0] if bases else None
    collect(lambda: raise_errors(judge_early(request, environ, base)))
    collect(lambda: _start_files(request, base))
    if not isinstance(first, MachineError):
        collect(lambda: _machine(request, environ, base))
    if not isinstance(first, DatasetError):
        collect(lambda: _dataset(request, environ, base, decodes=decodes))
    if secrets is not None:
        collect(lambda: _destinations(destinations, secrets, environ))
    return most_urgent(found)


def most_urgent(errors: Sequence[TennerError]) -> TennerError:
    """One error of several, each problem once, in the order of who must act."""

    def urgency(error: TennerError) -> int:
        return next(
            (n for n, kind in enumerate(_BY_URGENCY) if isinstance(error, kind)), len(_BY_URGENCY)
        )

    ordered = sorted(errors, key=urgency)
    problems = dict.fromkeys(problem for error in ordered for problem in error.problems)
    return type(ordered[0])(problems=tuple[Problem, ...](problems))


def _base(request: Request, environ: Mapping[str, str]) -> tuple[Base, ...]:
    settings = request.settings
    if must_be_fetched(settings.base_model, environ):
        return ()

    def in_silence(name: str, detail: str) -> None:
        del name, detail

    nothing = Path()  # of a base that is here no heads are fetched
    found = find_base(settings, environ, on_stage=in_silence, on_bytes=None, heads_into=nothing)
    return (found,)


def _start_files(request: Request, base: Base | None) -> None:
    with_start_files(request, base)


def _machine(request: Request, environ: Mapping[str, str], base: Base | None) -> None:
    machine = inspect_own_machine(request.settings, environ)
    if base:
        choose_device(request.settings, machine, base)
    elif request.settings.device != "cpu" and request.settings.base_model != "tiny":
        machine.require_gpu()  # the tiny base needs none, also where it was refused


def _dataset(
    request: Request, environ: Mapping[str, str], base: Base | None, *, decodes: bool
) -> None:
    settings = request.settings
    assumed = assume_base(settings, base)
    request = with_family_defaults(
        request, assumed.family, assumed.resolution, is_tiny=assumed.is_tiny
    )
    needed = dataset_request(request, assumed.family, assumed.resolution, environ)
    named = (needed.source, needed.reg_data_dir or "", *(each.image_dir for each in needed.subsets))
    if not any("://" in each for each in named):  # what is here, and no download
        judge_dataset(replace(needed, decodes=decodes))


def _destinations(
    destinations: Sequence[Destination], secrets: Secrets, environ: Mapping[str, str]
) -> None:
    problems = check_destinations(destinations, secrets=secrets, env=environ)
    if errors_in(problems):
        raise SettingsError(problems=errors_in(problems))
