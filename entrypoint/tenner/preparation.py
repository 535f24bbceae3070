"""Everything that is found out and decided before a run costs anything."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from tenner.base_model import (
    Base,
    find_local_base,
    hold_to_sha256,
    inspect_base,
    known_base,
    not_found,
)
from tenner.cost import Price, price_of
from tenner.dataset import Dataset, DatasetRequest, inspect_dataset
from tenner.dataset.fetch import downloads_dir
from tenner.engines.choice import ChosenEngine, choose_engine
from tenner.engines.sd_scripts.conflicts import conflicts
from tenner.engines.sd_scripts.find import PYTHON_VARIABLE
from tenner.errors import MachineError, Problem, SettingsError, errors_in
from tenner.events import Phase
from tenner.expectation import Expected, expect, expected_choices, over_budget
from tenner.machine import Machine, inspect_machine
from tenner.machine.host import inspect_host
from tenner.machine.torch_build import trainer_build
from tenner.machine.trial import Trial
from tenner.plan import Device, Length, Plan, plan_run
from tenner.secrets import secrets_from, without_secrets
from tenner.settings import Request, Settings
from tenner.shaping import Ground, Shaped, shape_run
from tenner.sizing import CardMemory, Choice
from tenner.tiny import base_dir

OnImage = Callable[[int, int], None]
OnBytes = Callable[[int, int | None], None]
Inspect = Callable[[DatasetRequest, Path, OnImage, OnBytes | None], Dataset]
"""As `tenner.dataset.inspect_dataset`."""

_FEWEST_IMAGES = 20  # what the guide wants for the simplest concept
MODELS_DIR = "/opt/models"
"""Where the image keeps its baked base models, unless TENNER_MODELS_DIR says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that can start: each part was looked at, and the plan says what will be done."""

    request: Request
    base: Base
    machine: Machine
    dataset: Dataset
    engine: ChosenEngine
    plan: Plan
    host_price: Price | None = None
    broken: Mapping[str, str] = field(default_factory=dict[str, str])
    """Libraries of the trainer that do not work, with what they said."""

    @property
    def settings(self) -> Settings:
        return self.request.settings


def prepare(
    request: Request,
    environ: Mapping[str, str],
    workdir: Path,
    *,
    on_stage: Callable[[str, str], None],
    on_image: Callable[[int, int], None],
    on_bytes: Callable[[int, int | None], None] | None = None,
    host_price: Price | None = None,
    inspect: Inspect = inspect_dataset,
    try_card: bool = True,
    fetches_base: bool = True,
) -> Prepared:
    """Look at everything and decide. Raises TennerError with whose turn it is.

    `host_price` is what the host itself says this machine costs. `try_card` has the trainer's
    Python compute something on the card while the dataset is read; it takes seconds. A base model
    that is elsewhere is fetched, or with `fetches_base` off told as missing.
    """
    settings = request.settings
    on_stage("machine", "looking for a card")
    build = trainer_build(Path(environ.get(PYTHON_VARIABLE) or sys.executable))
    machine = inspect_machine(environ, num_gpus=settings.num_processes, cuda=build)
    if settings.device != "cpu" and _must_be_fetched(settings.base_model, environ):
        machine.require_gpu()  # before gigabytes are
    base = find_base(settings, environ, fetches=fetches_base, on_stage=on_stage, on_bytes=on_bytes)
    device = choose_device(settings, machine, base)
    engine = choose_engine(settings, environ, tiny=base.is_tiny)
    with _trial(settings, machine, engine, environ, wanted=try_card and device == "cuda") as trial:
        on_stage("dataset", settings.dataset)
        resolution = settings.resolution or (base.resolution, base.resolution)
        asked = dataset_request(request, base, resolution, environ)
        if engine.name == "diffusers":  # sd-scripts holds images out by itself
            share, seed = settings.validation_split, settings.seed
            asked = replace(asked, validation_split=share, validation_seed=seed)
        dataset = inspect(asked, workdir, on_image, on_bytes)

        def decide(broken: Mapping[str, str]) -> Plan:
            plan = make_plan(
                request, base, machine, device, engine, dataset, resolution, host_price, broken
            )
            return _judged(settings, plan, base, engine)

        plan, broken = decide({}), dict[str, str]()
        if trial:
            on_stage("machine", "waiting for the trial of the card")
            tried = trial.finish()
            if tried.problem:
                raise MachineError(problems=[tried.problem])
            broken = dict(tried.broken)
            plan = decide(broken) if broken else plan
    return Prepared(
        request=request,
        base=base,
        machine=machine,
        dataset=dataset,
        engine=engine,
        plan=plan,
        host_price=host_price,
        broken=broken,
    )


def _judged(settings: Settings, plan: Plan, base: Base, engine: ChosenEngine) -> Plan:
    """The plan with its warnings. Raises SettingsError where it may not be carried out."""
    found = over_budget(settings, plan.expected, plan.length)
    if engine.name == "sd-scripts":
        found += errors_in(conflicts(plan.options, family=base.family))
    if errors_in(found):
        raise SettingsError(problems=errors_in(found))
    return replace(plan, notices=(*plan.notices, *found))


def _trial(
    settings: Settings,
    machine: Machine,
    engine: ChosenEngine,
    environ: Mapping[str, str],
    *,
    wanted: bool,
) -> AbstractContextManager[Trial | None]:
    """The trainer's Python at work on the card, with the libraries that the run would use."""
    if not wanted:
        return nullcontext()
    libraries: list[str] = []
    if engine.name == "sd-scripts" and settings.attention == "xformers":
        libraries.append("xformers")
    if settings.optimizer_type.lower().endswith("8bit"):
        libraries.append("bitsandbytes")
    return Trial(engine.python, libraries, {**without_secrets(environ), **machine.child_env})


def _must_be_fetched(base_model: str, environ: Mapping[str, str]) -> bool:
    """Whether the base is known and not on this machine. Raises SettingsError where it is here and
    broken."""
    if not known_base(base_model) and "://" not in base_model:
        return False
    models_dir = Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR)
    return find_local_base(base_model, models_dir=models_dir, tiny_dir=base_dir()) is None


def find_base(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    fetches: bool,
    on_stage: Callable[[str, str], None],
    on_bytes: OnBytes | None,
) -> Base:
    """The base model, on this machine or brought to it, of the family that was said.

    Raises SettingsError.
    """
    models_dir = Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR)
    asked = settings.base_model
    base = find_local_base(asked, models_dir=models_dir, tiny_dir=base_dir())
    if base is None:
        from tenner.base_source import fetch_base, parse_base_address

        address = parse_base_address(asked)
        if address is None or not fetches:
            raise not_found(asked, models_dir, may_be_fetched=address is not None)
        on_stage("base model", str(address))
        fetched = fetch_base(
            address,
            cache=downloads_dir(environ) / "bases",
            secrets=secrets_from(environ)[0],
            environ=environ,
            on_bytes=on_bytes,
            sha256=settings.base_model_sha256 or address.sha256,
        )
        base = inspect_base(fetched.path, name=str(address))
        base = replace(base, hub_id=fetched.hub_id, licence=fetched.licence)
    elif settings.base_model_sha256:
        hold_to_sha256(base, settings.base_model_sha256)
    problems = _contradictions(settings, base)
    if problems:
        raise SettingsError(problems=problems)
    return base


def choose_device(settings: Settings, machine: Machine, base: Base) -> Device:
    """The card, or the CPU where that was asked for or the base is tiny.

    Raises MachineError where a card is needed and cannot be used: never a silent CPU run.
    """
    if settings.device == "cpu":
        return "cpu"
    if settings.device == "auto" and base.is_tiny and not machine.has_gpu:
        return "cpu"
    machine.require_gpu()
    return "cuda"


def dataset_request(
    request: Request, base: Base | None, resolution: tuple[int, int], environ: Mapping[str, str]
) -> DatasetRequest:
    """The settings of the dataset, in the dataset room's words. Without a base the resolution
    tells the family."""
    settings = request.settings
    is_sdxl = base.family == "sdxl" if base else min(resolution) >= 1024
    usual = 8 if base and base.is_tiny else 32 if is_sdxl else 64
    steps = settings.bucket_reso_steps or usual
    smallest = min(settings.min_bucket_reso, *resolution)
    cache = environ.get("TENNER_CACHE_DIR")
    batch = settings.batch_size
    return DatasetRequest(
        source="" if request.subsets else settings.dataset,
        subsets=request.subsets,
        reg_data_dir=settings.reg_data_dir,
        trigger=settings.trigger,
        add_trigger=settings.add_trigger,
        num_repeats=settings.num_repeats,
        caption_extension=settings.caption_extension,
        resolution=resolution,
        enable_bucket=settings.enable_bucket,
        min_bucket_reso=smallest,
        max_bucket_reso=max(settings.max_bucket_reso, *resolution),
        bucket_reso_steps=steps,
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


def make_plan(
    request: Request,
    base: Base,
    machine: Machine,
    device: Device,
    engine: ChosenEngine,
    dataset: Dataset,
    resolution: tuple[int, int],
    host_price: Price | None = None,
    broken: Mapping[str, str] | None = None,
    correction: float = 1.0,
) -> Plan:
    """All decisions of the run, with their reasons. Pure."""
    settings = request.settings
    ground = Ground(
        device=device,
        card=CardMemory(name=machine.gpu_name, free_mib=machine.free_mib, correction=correction),
        capability=machine.capability,
        engine=engine.name,
        family=base.family,
        is_tiny=base.is_tiny,
        resolution=resolution,
        buckets=dataset.images_by_bucket(),
        cpus=machine.host.cpus,
        shm_mib=machine.host.shm_mib,
        broken=broken,
    )
    shaped = shape_run(settings, ground)
    price = price_of(
        asked=settings.price_per_hour,
        host=host_price,
        gpu_name=machine.gpu_name if device == "cuda" else "",
        num_gpus=settings.num_processes,
    )
    choices = (
        Choice(name="engine", value=engine.name, reason=engine.reason),
        Choice(name="device", value=_device_name(machine, device), reason=_why_device(device)),
        *shaped.choices,
    )
    plan = plan_run(
        settings,
        engine=engine.name,
        base=base,
        device=device,
        gpu=machine.gpu_name if device == "cuda" else None,
        shape=shaped.shape,
        resolution=resolution,
        batches_per_epoch=dataset.batches_per_epoch(shaped.shape.batch_size),
        optimizer_type=shaped.optimizer,
        choices=choices,
        notices=(*notices(request, base, machine, device, engine, dataset), *shaped.problems),
    )
    expected = _expected(settings, shaped, plan.length, machine, dataset, price)
    return replace(
        plan,
        expected=expected,
        needed_gb=shaped.batch.needed_gb,
        choices=(*plan.choices, *expected_choices(expected)),
    )


def _expected(
    settings: Settings,
    shaped: Shaped,
    length: Length,
    machine: Machine,
    dataset: Dataset,
    price: Price | None,
) -> Expected | None:
    """Hours and dollars, where the run is on a card whose speed is known."""
    if shaped.load is None:
        return None
    from tenner.sampling import grid_cells

    captions = [image.caption for image in dataset.images if not image.is_reg]
    cells = () if settings.no_samples else grid_cells(settings, captions, dataset.trigger)
    return expect(
        settings,
        shaped.load,
        shaped.batch,
        length,
        gpu_name=machine.gpu_name,
        price=price,
        num_pictures=len(cells),
    )


def notices(
    request: Request,
    base: Base,
    machine: Machine,
    device: Device,
    engine: ChosenEngine,
    dataset: Dataset,
) -> tuple[Problem, ...]:
    """Warnings and notes of all parts, in the order of the run."""
    cards = machine.problems if device == "cuda" else ()
    found = (*request.notices, *cards, *base.notices, *engine.notices, *dataset.problems)
    left = sum(not image.is_reg for image in dataset.images)
    if not dataset.held_out or left >= _FEWEST_IMAGES:
        return found
    small = Problem(
        text=f"{len(dataset.held_out)} of {left + len(dataset.held_out)} images are held out, and"
        f" {left} left to learn from: so few mislead, and the training wants them",
        fix="leave validation_split out",
        level="warning",
    )
    return (*found, small)


def num_cpus(machine: Machine) -> int:
    """Whole cores that this process may use."""
    return max(1, int(machine.host.cpus or os.cpu_count() or 1))


def _contradictions(settings: Settings, base: Base) -> list[Problem]:
    problems: list[Problem] = []
    if settings.v2 is not None and settings.v2 != (base.family == "sd2"):
        told = "is" if settings.v2 else "is not"
        problems.append(
            Problem(
                text=f"v2 = {str(settings.v2).lower()} says that {base.name} {told} Stable"
                " Diffusion 2.x; its weights say otherwise",
                fix="remove v2",
            )
        )
    said = settings.v_parameterization
    if base.prediction is None and said is None:
        problems.append(
            Problem(
                text=f"{base.name} does not tell what it predicts",
                fix="set v_parameterization: true for the 768 px models of 2.x, false for the base",
            )
        )
    told = base.layout == "diffusers" and said is not None
    if told and said != (base.prediction == "v_prediction"):
        text = f"v_parameterization = {str(said).lower()}, but {base.name} predicts otherwise"
        problems.append(Problem(text=text, fix="remove v_parameterization"))
    return problems


def _device_name(machine: Machine, device: Device) -> str:
    return machine.gpu_name if device == "cuda" else f"CPU, {num_cpus(machine)} cores"


def _why_device(device: Device) -> str:
    return "found with nvidia-smi" if device == "cuda" else "asked for, or the base is tiny"
