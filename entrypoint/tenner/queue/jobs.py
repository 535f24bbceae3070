"""The forms of a batch: a folder of settings files, a file with `[[jobs]]`, or a `[sweep]`.

Settings of a job come from the sources of a single run, and one more: flags, environment, the job
itself, what the file sets for all jobs, preset, defaults.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from tenner.core.errors import Problem, SettingsError
from tenner.core.messages import msg
from tenner.queue.labels import value_slug
from tenner.settings.names import canonical
from tenner.settings.resolve import Request, resolve
from tenner.settings.sources import (
    FlagsSource,
    Layer,
    LayerSource,
    PresetSource,
    Source,
    VariablesSource,
    read_layer,
    tables_layer,
)
from tenner.settings.toml_text import read_toml
from tenner.settings.values import Count, Rate, Switch

SHARED_FILE = "batch.toml"
"""In a folder of jobs: the file with `[batch]` and the settings of all jobs."""
_OWN_TABLES = ("batch", "jobs", "sweep")


class BatchOptions(BaseModel):
    """`[batch]`: options of the whole batch rather than of one job."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    stop_after: Count | None = None
    """Start no further job after so many failures."""
    shortest_first: Switch = False
    """Train the shortest job first instead of in the given order."""
    max_cost_usd: Rate | None = None
    """Most that all jobs together may cost, in dollars."""
    max_hours: Rate | None = None
    """Longest that all jobs together may take, over all starts of the batch."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Jobs that are each a valid request. `name` calls the batch's own folder."""

    name: str
    jobs: tuple[Request, ...]
    options: BatchOptions

    @property
    def folder(self) -> Path:
        """The folder of the batch's summary and of what its jobs share."""
        output_dir = Path(self.jobs[0].settings.output_dir).expanduser()
        return output_dir / f"{self.name}.batch"


@dataclass(frozen=True, kw_only=True)
class _RawJob:
    """A job before its settings are judged. `name` is the run's, unless the job sets another."""

    name: str
    own: Layer
    common: Layer


def read_batch(
    path: Path,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Batch:
    """The batch at `path`. `options` are those of `[batch]` set by flags.

    Raises SettingsError with every problem of every job.
    """
    for_all = (FlagsSource(flags), VariablesSource(environ))
    raw_jobs, batch_table = _raw_jobs(path, for_all)
    weakest = [PresetSource(preset)] if preset else []
    problems: list[Problem] = []
    jobs: list[Request] = []
    for job in raw_jobs:
        try:
            jobs.append(_request(job, for_all, weakest))
        except SettingsError as error:
            problems += [
                replace(each, text=msg("{name}: {text}", name=job.name, text=each.text))
                for each in error.problems
            ]
    problems += _clashes(jobs)
    found = BatchOptions()
    try:
        found = BatchOptions.model_validate({**batch_table, **(options or {})})
    except ValidationError as error:
        problems += [
            Problem(
                text=msg(
                    "[batch] {key}: {why}", key=".".join(map(str, each["loc"])), why=each["msg"]
                ),
                fix=_KNOWN,
            )
            for each in error.errors(include_url=False)
        ]
    if problems:
        raise SettingsError(problems=problems)
    name = (path.resolve() if path.is_dir() else path).stem
    return Batch(name=name, jobs=tuple(jobs), options=found)


_KNOWN = msg(
    "keys of [batch] are {model_fields}", model_fields=", ".join(BatchOptions.model_fields)
)


def _raw_jobs(path: Path, for_all: Sequence[Source]) -> tuple[list[_RawJob], Mapping[str, Any]]:
    """The jobs at `path`, and what `[batch]` sets. Raises SettingsError."""
    shared = path / SHARED_FILE if path.is_dir() else path
    tables = dict[str, Any]()
    if shared.is_file() or not path.is_dir():
        tables = _tables(shared)
    common = tables_layer(
        {key: value for key, value in tables.items() if key not in _OWN_TABLES},
        name=shared.name,
        path=shared,
    )
    if common.problems:
        raise SettingsError(problems=common.problems)
    name = str(common.values.get("output_name", path.stem))
    jobs = [
        (f"{name}-{number}", tables_layer(job, name=f"{shared.name} job {number}"))
        for number, job in enumerate(tables.get("jobs", []), start=1)
    ]
    if path.is_dir():
        files = sorted(each for each in path.glob("*.toml") if each.name != SHARED_FILE)
        jobs += [(each.stem, read_layer(each)) for each in files]
    elif not jobs and "sweep" in tables:
        jobs = [(name, Layer())]
    if not jobs:
        raise SettingsError(
            msg("{path} holds no jobs", path=path),
            fix=msg("give a folder of settings files, or a file with [[jobs]] or [sweep]"),
        )
    sweep = _sweep(tables.get("sweep", {}), for_all, shared.name)
    raw_jobs = [
        _RawJob(name=name, own=layer, common=common)
        for job_name, job in jobs
        for name, layer in _swept(job_name, job, sweep, shared.name)
    ]
    return raw_jobs, tables.get("batch", {})


def _tables(path: Path) -> dict[str, Any]:
    """The TOML file, its own tables of the right kind. Raises SettingsError."""
    tables, problems = read_toml(path)
    wrong = list(problems)
    for key, kind, example in (
        ("batch", dict, "[batch]"),
        ("sweep", dict, "[sweep]"),
        ("jobs", list, "[[jobs]]"),
    ):
        found = tables.get(key)
        right = isinstance(found, kind) and not (
            isinstance(found, list)
            and not all(isinstance(each, dict) for each in cast("list[object]", found))
        )
        if found is not None and not right:
            wrong.append(
                Problem(
                    text=msg("{name}: {key} is no table", name=path.name, key=key),
                    fix=msg("write {example}", example=example),
                )
            )
    if wrong:
        raise SettingsError(problems=wrong)
    return tables


def _sweep(
    table: Mapping[str, Any], for_all: Sequence[Source], name: str
) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """The keys of a sweep with their values. Raises SettingsError."""
    problems: list[Problem] = []
    origins = {key: origin for each in for_all for key, origin in each.origins.items()}
    for key, values in table.items():
        if not isinstance(values, list) or not values:
            text = msg("{name}: {key} in [sweep] is no list", name=name, key=key)
            problems.append(Problem(text=text, fix=msg("write {key} = [first, second]", key=key)))
        if canonical(key) in origins:
            text = msg(
                "{key} is swept over in {name} and set once for all ({origins})",
                key=key,
                name=name,
                origins=origins[canonical(key)],
            )
            problems.append(Problem(text=text, fix=msg("remove one of them")))
    if problems:
        raise SettingsError(problems=problems)
    return tuple((key, tuple(values)) for key, values in table.items())


def _swept(
    name: str, job: Layer, sweep: tuple[tuple[str, tuple[Any, ...]], ...], where: str
) -> list[tuple[str, Layer]]:
    """One job for each combination of values, each named by its own."""
    name = str(job.values.get("output_name", name))
    found: list[tuple[str, Layer]] = []
    for values in itertools.product(*(values for _, values in sweep)):
        pairs = {key: value for (key, _), value in zip(sweep, values, strict=True)}
        full = "-".join([name, *(f"{key}-{value_slug(value)}" for key, value in pairs.items())])
        layer = replace(
            job,
            values={**job.values, **pairs, "output_name": full},
            origins={**job.origins, **dict.fromkeys(pairs, f"{where} [sweep]")}
            | {"output_name": job.origins.get("output_name", "the job's name")},
        )
        found.append((full, layer))
    return found


def _request(job: _RawJob, for_all: Sequence[Source], weakest: Sequence[Source]) -> Request:
    """The job's settings. A destination that is set for all jobs has a folder for each."""
    stronger = [_without(each.layer, "output_name") for each in for_all]
    layers = map(LayerSource, (*stronger, job.own, job.common))
    request = resolve([*layers, *weakest])
    settings = request.settings
    if "destinations" in job.own.values and not any(
        "destinations" in each.values for each in for_all
    ):
        return request
    own = tuple(_own_folder(each, settings.output_name) for each in settings.destinations)
    return replace(request, settings=settings.model_copy(update={"destinations": own}))


def _without(layer: Layer, key: str) -> Layer:
    """`layer` without `key`: a name that is set for all jobs would give all the same one."""
    return replace(layer, values={k: v for k, v in layer.values.items() if k != key})


def _own_folder(destination: str, name: str) -> str:
    """The job's folder at a destination. A repository has no folder for each job: it belongs to one
    job."""
    if destination.startswith("hf://"):
        return destination
    address, mark, options = destination.partition("?")
    return f"{address.rstrip('/')}/{name}{mark}{options}"


def _clashes(jobs: Sequence[Request]) -> list[Problem]:
    """Problems of jobs that would overwrite each other's runs or deliveries."""
    problems: list[Problem] = []
    names: set[tuple[str, str]] = set()
    owners: dict[str, str] = {}
    for job in jobs:
        settings = job.settings
        if (settings.output_dir, settings.output_name) in names:
            text = msg("two jobs are called {output_name}", output_name=settings.output_name)
            problems.append(Problem(text=text, fix=msg("give each an output_name of its own")))
        names.add((settings.output_dir, settings.output_name))
        for address in settings.destinations:
            if address in owners:
                text = msg(
                    "{first} and {second} both deliver to {destination}",
                    first=owners[address],
                    second=settings.output_name,
                    destination=address,
                )
                fix = msg(
                    "name a destination of its own in each job, or one bucket or folder for all"
                )
                problems.append(Problem(text=text, fix=fix))
            owners[address] = settings.output_name
    return problems
