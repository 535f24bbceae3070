"""What is done with what was looked at: every decision of a run, with its reason. Pure."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tenner.base.model import Base
from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.dataset import Dataset
from tenner.dataset.items import ImageItem
from tenner.engines.choice import ChosenEngine
from tenner.hardware import Machine
from tenner.hardware.prices import Price, price_of
from tenner.planning.batch_choice import CardMemory, Choice
from tenner.planning.expectation import Expected, expect, expected_choices, few_updates
from tenner.planning.family_defaults import family_choices, with_family_defaults
from tenner.planning.keep_tokens import keep_tokens_for
from tenner.planning.learning_rate import RATES, rate_choice, rate_factor
from tenner.planning.length import Length
from tenner.planning.plan import Device, Plan, RunFacts, Shape, plan_run
from tenner.planning.prepared import Prepared
from tenner.planning.shaping import Ground, Shaped, shape_run
from tenner.sample.cells import grid_cells
from tenner.settings import Request, Settings

_FEWEST_IMAGES = 20  # what the guide recommends for the simplest concept


def choose_device(settings: Settings, machine: Machine, base: Base) -> Device:
    """The card, or the CPU where that was requested or the base is tiny.

    Raises MachineError where a card is needed and cannot be used: never a silent CPU run.
    """
    if settings.device == "cpu":
        return "cpu"
    if settings.device == "auto" and base.is_tiny and not machine.has_gpu:
        return "cpu"
    machine.require_gpu()
    return "cuda"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a plan is made from: what was found out about each part of a run.

    `resolution` is width and height, in pixels. `host_price` is what the host reports that
    this machine costs, `broken` are libraries of the trainer that do not work, with their errors.
    `correction` is the factor between the memory model and what was measured.
    `drafting_seconds` is what the captions take that the run is still to draft.
    """

    request: Request
    base: Base
    machine: Machine
    device: Device
    engine: ChosenEngine
    dataset: Dataset
    resolution: tuple[int, int]
    host_price: Price | None = None
    broken: Mapping[str, str] = field(default_factory=dict[str, str])
    correction: float = 1.0
    drafting_seconds: float = 0.0

    @property
    def gpu(self) -> str | None:
        """The card that the run is planned for; None on a CPU."""
        return self.machine.gpu_name if self.device == "cuda" else None


def make_plan(findings: Findings) -> Plan:
    """All decisions of the run, with their reasons. Pure."""
    base, machine, device = findings.base, findings.machine, findings.device
    engine, dataset, resolution = findings.engine, findings.dataset, findings.resolution
    request = with_family_defaults(
        findings.request, base.family, resolution, prediction=base.prediction, is_tiny=base.is_tiny
    )
    findings, settings = replace(findings, request=request), request.settings
    ground = Ground(
        device=device,
        card=CardMemory(
            name=machine.gpu_name, free_mib=machine.free_mib, correction=findings.correction
        ),
        capability=machine.capability,
        engine=engine.name,
        family=base.family,
        is_tiny=base.is_tiny,
        resolution=resolution,
        buckets=dataset.images_by_bucket(),
        cpus=machine.host.cpus,
        shm_mib=machine.host.shm_mib,
        broken=findings.broken,
        text_gb=base.text_gb,
    )
    shaped = shape_run(settings, ground)
    price = price_of(
        set_by_user=settings.price_per_hour,
        host=findings.host_price,
        gpu_name=findings.gpu or "",
        num_gpus=settings.num_processes,
    )
    choices = (
        Choice(name="engine", value=engine.name, reason=engine.reason),
        Choice(name="device", value=_device_name(machine, device), reason=_why_device(device)),
        *shaped.choices,
        *_of_rates(request, base, shaped.shape),
    )
    facts = RunFacts(
        engine=engine.name,
        base=base,
        device=device,
        gpu=findings.gpu,
        resolution=resolution,
        batches_per_epoch=dataset.batches_per_epoch(shaped.shape.batch_size),
    )
    plan = plan_run(
        settings,
        facts,
        shaped.shape,
        optimizer_type=shaped.optimizer,
        choices=choices,
        notices=(*notices(findings), *shaped.problems),
    )
    expected = expected_of(
        settings,
        shaped,
        plan.length,
        gpu_name=machine.gpu_name,
        images=dataset.images,
        trigger=dataset.trigger,
        price=price,
        drafting_seconds=findings.drafting_seconds,
    )
    keep_tokens, about_tags = keep_tokens_for(settings, dataset.images, dataset.trigger)
    images = shaped.shape.images_per_update(settings.num_processes)
    few = few_updates(settings, expected, plan.length, images_per_update=images)
    return replace(
        plan,
        options=replace(plan.options, keep_tokens=keep_tokens),
        notices=(*plan.notices, *about_tags, *(() if base.is_tiny else few)),
        expected=expected,
        needed_gb=shaped.batch.needed_gb,
        choices=(*plan.choices, *expected_choices(expected)),
    )


def _of_rates(request: Request, base: Base, shape: Shape) -> tuple[Choice, ...]:
    """The learning rate, and what the family decides, among it the text encoder's."""
    settings = request.settings
    images = shape.images_per_update(settings.num_processes)
    is_set = any(key in request.set_at for key in RATES)
    choices = family_choices(request, base, factor=rate_factor(settings, images))
    return (rate_choice(settings, images, is_set=is_set), *choices)


def plan_again(prepared: Prepared, *, correction: float = 1.0) -> Plan:
    """The plan of a prepared run whose request, base or estimate (`correction`) has changed."""
    return make_plan(
        Findings(
            request=prepared.request,
            base=prepared.base,
            machine=prepared.machine,
            device=prepared.plan.device,
            engine=prepared.engine,
            dataset=prepared.dataset,
            resolution=prepared.plan.resolution,
            host_price=prepared.host_price,
            broken=prepared.broken,
            correction=correction,
            drafting_seconds=prepared.drafting_seconds,
        )
    )


def expected_of(
    settings: Settings,
    shaped: Shaped,
    length: Length,
    *,
    gpu_name: str,
    images: Sequence[ImageItem],
    trigger: str,
    price: Price | None,
    drafting_seconds: float = 0.0,
) -> Expected | None:
    """Hours and dollars, where the run is on a card whose speed is known."""
    if shaped.load is None:
        return None
    captions = [image.caption for image in images if not image.is_reg]
    cells = () if settings.no_samples else grid_cells(settings, captions, trigger)
    return expect(
        settings,
        shaped.load,
        shaped.batch,
        length,
        gpu_name=gpu_name,
        price=price,
        num_pictures=len(cells),
        drafting_seconds=drafting_seconds,
    )


def notices(findings: Findings) -> tuple[Problem, ...]:
    """Warnings and notes of all parts, in the order of the run."""
    dataset = findings.dataset
    found = (
        *findings.request.notices,
        *(findings.machine.problems if findings.device == "cuda" else ()),
        *findings.base.notices,
        *findings.engine.notices,
        *dataset.problems,
    )
    return (*found, *too_few_left(dataset.images, dataset.held_out))


def too_few_left(
    trained: Sequence[ImageItem], held_out: Sequence[ImageItem]
) -> tuple[Problem, ...]:
    """The warning of images that are held out of a set that is too small for it."""
    left = sum(not image.is_reg for image in trained)
    if not held_out or left >= _FEWEST_IMAGES:
        return ()
    small = Problem(
        text=msg(
            "{n} of {left} images are held out, and {left2} left to learn from: so few"
            " mislead, and the training needs them",
            n=len(held_out),
            left=left + len(held_out),
            left2=left,
        ),
        fix=msg("leave validation_split out"),
        level="warning",
    )
    return (small,)


def num_cpus(machine: Machine) -> int:
    """Whole cores that this process may use."""
    return max(1, int(machine.host.cpus or os.cpu_count() or 1))


def _device_name(machine: Machine, device: Device) -> str:
    return (
        machine.gpu_name
        if device == "cuda"
        else msg("CPU, {num_cpus} cores", num_cpus=num_cpus(machine))
    )


def _why_device(device: Device) -> str:
    return msg("found with nvidia-smi") if device == "cuda" else msg("set, or the base is tiny")
