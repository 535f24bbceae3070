"""Everything that is found out and decided before a run costs anything."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from tenner.base.choice import find_base, must_be_fetched
from tenner.core.errors import MachineError, Problem
from tenner.core.events import Phase
from tenner.core.family import Family
from tenner.core.secrets import child_environ
from tenner.dataset import Dataset, DatasetRequest, inspect_dataset
from tenner.engines.choice import ChosenEngine, choose_engine
from tenner.engines.sd_scripts.find import PYTHON_VARIABLE
from tenner.families import FAMILIES
from tenner.hardware import Machine, inspect_machine
from tenner.hardware.host import inspect_host
from tenner.hardware.prices import Price
from tenner.hardware.torch_build import trainer_build
from tenner.hardware.trial import Trial, Tried
from tenner.pipeline.drafting import MODEL_NAMES, python_for
from tenner.pipeline.run_captions import (
    draft_missing,
    drafts_folder,
    expected_drafting_seconds,
    kind_for,
)
from tenner.pipeline.start_files import with_start_files
from tenner.planning.decision import Findings, choose_device, make_plan
from tenner.planning.expectation import over_budget
from tenner.planning.family_defaults import with_family_defaults
from tenner.planning.judging import (
    judge_early,
    judge_optimizer,
    judge_plan,
    judge_request,
    judge_started,
    raise_errors,
)
from tenner.planning.plan import Plan
from tenner.planning.prepared import Prepared
from tenner.runs.session import NO_PROGRESS, Progress, Session
from tenner.settings import Request, Settings
from tenner.storage.http import OnBytes

OnImage = Callable[[int, int], None]
Inspect = Callable[[DatasetRequest, Path, OnImage, OnBytes | None], Dataset]
"""As `tenner.dataset.inspect_dataset`."""
TrialName = tuple[Path, tuple[str, ...], tuple[tuple[str, str], ...]]
Trials = dict[TrialName, Tried]
"""What trials of the card have found, for all runs of a session."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """How thoroughly a run is checked, and by what.

    `try_card` has the trainer's Python compute something on the card while the dataset is read; it
    takes seconds, and what is among `trials` is not tried again. A base model that is elsewhere is
    fetched, or with `fetches_base` off known by its name or by the heads of its files. With
    `decodes` off only the heads of images are read.
    """

    inspect: Inspect = inspect_dataset
    try_card: bool = True
    trials: Trials | None = None
    fetches_base: bool = True
    decodes: bool = True


THOROUGH = Preflight()


def prepare(
    request: Request,
    environ: Mapping[str, str],
    workdir: Path,
    *,
    progress: Progress = NO_PROGRESS,
    host_price: Price | None = None,
    checks: Preflight = THOROUGH,
) -> Prepared:
    """Check everything and decide. Raises the TennerError of who must act.

    Missing captions are drafted where the settings request it and the images are decoded.
    `workdir` is where a dataset that must be unpacked or cleaned is written. `host_price` is what
    the host itself says this machine costs.
    """
    settings, on_stage = request.settings, progress.on_stage
    on_stage("machine", "looking for a card")
    machine = inspect_own_machine(settings, environ)
    if settings.device != "cpu" and must_be_fetched(settings.base_model, environ):
        machine.require_gpu()  # before gigabytes are
        raise_errors(judge_early(request, environ, None))
    base = find_base(
        settings,
        environ,
        on_stage=on_stage,
        on_bytes=progress.on_bytes,
        heads_into=None if checks.fetches_base else workdir / "base",
    )
    resolution = settings.resolution or (base.resolution, base.resolution)
    written = request
    request = with_family_defaults(
        request, base.family, resolution, prediction=base.prediction, is_tiny=base.is_tiny
    )
    settings = request.settings
    device = choose_device(settings, machine, base)
    other_noise = "" if base.betas.is_usual else str(base.betas)
    engine = choose_engine(
        settings, environ, tiny=base.is_tiny, other_noise=other_noise, family=base.family
    )
    found = judge_request(written, trainer=engine.name, family=base.family, python=engine.python)
    raise_errors(found)
    request = with_start_files(request, base, engine.name)
    found += judge_started(
        written, request.settings, trainer=engine.name, family=base.family, python=engine.python
    )
    raise_errors(found)
    found = tuple(dict.fromkeys(found))
    request = with_family_defaults(  # once more, for the network that the files brought
        request, base.family, resolution, prediction=base.prediction, is_tiny=base.is_tiny
    )
    settings = request.settings
    name = _trial_name(settings, machine, engine)
    tried = (checks.trials or {}).get(name)
    tries = checks.try_card and device == "cuda" and tried is None
    needed = dataset_request(request, base.family, resolution, environ)
    needed = replace(needed, decodes=checks.decodes)
    if checks.decodes:  # before the trial, which is on the card as well
        needed = draft_missing(needed, settings, environ, progress)
    with _trial(name, environ) if tries else nullcontext() as trial:
        on_stage("dataset", settings.dataset)
        if engine.name == "native":  # sd-scripts holds images out by itself
            share, seed = settings.validation_split, settings.seed
            needed = replace(needed, validation_split=share, validation_seed=seed)
        dataset = checks.inspect(needed, workdir, progress.on_image, progress.on_bytes)
        _require_drafting(needed, dataset, settings, environ)
        has_card, cpus = device == "cuda", machine.host.cpus
        drafting_seconds = 0.0
        if needed.drafted_by:
            drafting_seconds = expected_drafting_seconds(
                settings, dataset.findings, has_card=has_card, num_cpus=cpus
            )
        findings = Findings(
            request=request,
            base=base,
            machine=machine,
            device=device,
            engine=engine,
            dataset=dataset,
            resolution=resolution,
            host_price=host_price,
            drafting_seconds=drafting_seconds,
        )
        plan = _judged_plan(findings, found)
        if trial:
            on_stage("machine", "waiting for the trial of the card")
            tried = trial.finish()
            if checks.trials is not None:
                checks.trials[name] = tried
        if tried and tried.problem:
            raise MachineError(problems=[tried.problem])
        if tried and tried.broken:
            findings = replace(findings, broken=dict(tried.broken))
            plan = _judged_plan(findings, found)
    raise_errors(judge_optimizer(written, plan.options, engine.python))
    return Prepared(
        request=request,
        base=base,
        machine=machine,
        dataset=dataset,
        engine=engine,
        plan=plan,
        host_price=host_price,
        broken=findings.broken,
        drafting_seconds=findings.drafting_seconds,
    )


def _require_drafting(
    needed: DatasetRequest, dataset: Dataset, settings: Settings, environ: Mapping[str, str]
) -> None:
    """Raise MachineError in a plan whose training could not draft the captions that are missing."""
    kind = kind_for(settings)
    missing = any(finding.kind == "captions_missing" for finding in dataset.findings)
    if kind and needed.drafted_by and missing:
        python_for(kind, environ)


def _judged_plan(findings: Findings, notices: Sequence[Problem]) -> Plan:
    """The plan with `notices` and its own warnings. Raises SettingsError where it may not be
    carried out."""
    request, plan = findings.request, make_plan(findings)
    plan = replace(plan, notices=(*plan.notices, *notices))
    over = over_budget(request.settings, plan.expected, plan.length)
    found = (*over, *judge_plan(request, plan))
    raise_errors(found)
    return replace(plan, notices=(*plan.notices, *found))


def _trial_name(settings: Settings, machine: Machine, engine: ChosenEngine) -> TrialName:
    """The trainer's Python, the libraries that the run would use, and the cards it would see."""
    libraries: list[str] = []
    if engine.name == "sd-scripts" and settings.attention == "xformers":
        libraries.append("xformers")
    if settings.optimizer_type.lower().endswith("8bit"):
        libraries.append("bitsandbytes")
    return engine.python, tuple(libraries), tuple(sorted(machine.child_env.items()))


def _trial(name: TrialName, environ: Mapping[str, str]) -> AbstractContextManager[Trial]:
    """The trainer's Python at work on the card."""
    python, libraries, seen = name
    return Trial(python, libraries, {**child_environ(environ), **dict(seen)})


def inspect_own_machine(settings: Settings, environ: Mapping[str, str]) -> Machine:
    """The cards, held against the build of the Python that will train on them."""
    build = trainer_build(Path(environ.get(PYTHON_VARIABLE) or sys.executable))
    return inspect_machine(environ, num_gpus=settings.num_processes, cuda=build)


def dataset_request(
    request: Request, family: Family, resolution: tuple[int, int], environ: Mapping[str, str]
) -> DatasetRequest:
    """The settings of the dataset, as `tenner.dataset` takes them. What depends on the family and
    is still open is decided."""
    settings = with_family_defaults(request, family, resolution).settings
    assert settings.max_bucket_reso is not None
    assert settings.bucket_reso_steps is not None
    cache, kind = environ.get("TENNER_CACHE_DIR"), kind_for(settings)
    batch = settings.batch_size
    return DatasetRequest(
        source="" if request.subsets else settings.dataset,
        subsets=request.subsets,
        reg_data_dir=settings.reg_data_dir,
        trigger=settings.trigger,
        add_trigger=settings.add_trigger,
        num_repeats=settings.num_repeats,
        caption_extension=settings.caption_extension,
        drafts=drafts_folder(settings) if kind else None,
        drafted_by=MODEL_NAMES[kind] if kind else "",
        resolution=resolution,
        enable_bucket=settings.enable_bucket,
        min_bucket_reso=settings.min_bucket_reso,
        max_bucket_reso=settings.max_bucket_reso,
        bucket_reso_steps=settings.bucket_reso_steps,
        finest_step=FAMILIES[family].defaults.finest_step,
        bucket_no_upscale=settings.bucket_no_upscale,
        max_token_length=settings.max_token_length,
        batch_size=batch if isinstance(batch, int) else None,
        enable_wildcard=bool(settings.engine_options.get("enable_wildcard")),
        caption_prefix=settings.caption_prefix,
        caption_suffix=settings.caption_suffix,
        alpha_color=settings.alpha_color,
        alpha_mask=bool(settings.engine_options.get("alpha_mask")),
        sha256=settings.dataset_sha256,
        max_bytes=int(settings.max_dataset_gb * 1024**3),
        cache_dir=Path(cache) if cache else None,
        skip=(Path(settings.output_dir).expanduser(),),
        num_workers=max(1, int(inspect_host().cpus)),
    )


def fetching(num_bytes: int, total: int | None) -> Phase:
    """How much of a dataset or base model has arrived, in MB."""
    mb = 1_000_000
    whole = None if total is None else -(-total // mb)
    return Phase(name="fetching", detail="MB", done=num_bytes // mb, total=whole)


ALONE = Session(prepare=prepare)
"""A run that shares nothing with another."""
