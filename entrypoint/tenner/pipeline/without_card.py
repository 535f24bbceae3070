"""Settings judged as `train` judges them where no run begins: by `check`, and for cards that are
only named.

Settings and dataset are here, and often the base model; the trainer and the card may be elsewhere.
What depends on something that is not known is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tenner.base.choice import MODELS_DIR, Assumed, assume_base, base_by_name, find_base
from tenner.base.local import find_local_base
from tenner.base.model import Base
from tenner.base.tiny import base_dir
from tenner.core.errors import MachineError, Problem, SettingsError, errors_in
from tenner.core.family import Family
from tenner.dataset.items import ImageItem
from tenner.engines.choice import choose_engine, possible_engine
from tenner.hardware import Machine
from tenner.hardware.cards import Card, cards
from tenner.hardware.prices import price_of
from tenner.kohya.buckets import Size, batches_per_epoch
from tenner.pipeline.start_files import with_start_files
from tenner.pipeline.surroundings import read_surroundings
from tenner.planning.batch_choice import CardMemory
from tenner.planning.decision import expected_of
from tenner.planning.expectation import over_budget
from tenner.planning.family_defaults import with_family_defaults
from tenner.planning.judging import (
    judge_optimizer,
    judge_options,
    judge_request,
    judge_started,
)
from tenner.planning.length import run_length
from tenner.planning.plan import EngineName, decided_options, warmup_steps
from tenner.planning.shaping import Ground, Shaped, shape_run
from tenner.settings import Request, Settings
from tenner.settings.known_bases import known_base
from tenner.storage.destination_address import parse_destinations


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A job as far as settings and base decide it. `problems` are all of them, errors too; the
    request has what family and start files decide. `base` is None where it is elsewhere and has no
    short name."""

    request: Request
    base: Base | None
    assumed: Assumed
    trainer: EngineName
    python: Path | None
    """The trainer's, where it is this machine's."""
    problems: tuple[Problem, ...]

    @property
    def predicts_v(self) -> bool | None:
        """What the base predicts, None where that is not known."""
        if self.base is None or self.base.prediction is None:
            return None
        return self.base.prediction == "v_prediction"


def judge_without_card(
    request: Request,
    environ: Mapping[str, str],
    *,
    machine: Machine | None,
    heads_into: Path | None = None,
) -> Judged:
    """All that can be reported before the dataset is read. Raises nothing that is wrong with the
    job.

    `machine` is this one, where its trainer and packages are the run's; None where another machine
    will train. With `heads_into` a base that is elsewhere, and has no short name, is described by
    the heads of its files, which are written to that folder.
    """
    around = (
        read_surroundings(request.settings, environ).problems
        if machine
        else parse_destinations(request.settings.destinations)[1]
    )
    problems: list[Problem] = [*request.notices, *around]
    base = _base(request.settings, environ, problems, heads_into)
    known = known_base(request.settings.base_model)
    if known and base is None:
        base, wrong = base_by_name(known, request.settings, environ)
        problems += wrong
    problems += base.notices if base else ()
    assumed = assume_base(request.settings, base)
    family = None if assumed.notice else assumed.family
    trainer, python = _trainer(request.settings, environ, base, problems, machine, family)
    written = request
    problems += judge_request(request, trainer=trainer, family=family, python=python)
    request = with_family_defaults(
        request,
        assumed.family,
        assumed.resolution,
        prediction=base.prediction if base else "epsilon",
        is_tiny=assumed.is_tiny,
    )
    try:
        request = with_start_files(request, base, trainer)
        problems += request.notices
        problems += judge_started(
            written, request.settings, trainer=trainer, family=family, python=python
        )
    except SettingsError as error:
        problems += error.problems
    return Judged(
        request=request,
        base=base,
        assumed=assumed,
        trainer=trainer,
        python=python,
        problems=tuple(dict.fromkeys(problems)),
    )


def _base(
    settings: Settings,
    environ: Mapping[str, str],
    problems: list[Problem],
    heads_into: Path | None,
) -> Base | None:
    """The base, if it is on this machine or its files' headers can be read; settings applied."""
    models_dir = Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR)
    base, name = None, settings.base_model
    describes = heads_into is not None and "://" in name and known_base(name) is None
    try:
        base = find_local_base(name, models_dir=models_dir, tiny_dir=base_dir())
        if base or describes:
            return find_base(
                settings,
                environ,
                on_stage=lambda name, detail: None,
                on_bytes=None,
                heads_into=heads_into or Path(),
                local=base,
            )
    except SettingsError as error:
        problems += error.problems
    return base


def _trainer(
    settings: Settings,
    environ: Mapping[str, str],
    base: Base | None,
    problems: list[Problem],
    machine: Machine | None,
    family: Family | None,
) -> tuple[EngineName, Path | None]:
    """The trainer, with its Python where it is this machine's; sd-scripts, as the image has it,
    where nothing decides otherwise."""
    noise = "" if base is None or base.betas.is_usual else str(base.betas)
    tiny, name = bool(base and base.is_tiny), None
    try:
        name, _ = possible_engine(settings, tiny=tiny, other_noise=noise, family=family)
        if machine and (settings.device == "cpu" or tiny or machine.has_gpu):
            found = choose_engine(settings, environ, tiny=tiny, other_noise=noise, family=family)
            return found.name, found.python
    except SettingsError as error:
        problems += error.problems
    except MachineError:
        pass  # it is not installed here, and judged as it will be where it is
    return name or "sd-scripts", None


def judge_shape(
    judged: Judged, ground: Ground, *, shaped: Shaped | None = None
) -> tuple[Problem, ...]:
    """Problems of the values that card and dataset decide, by the rules and by the optimizer itself
    where it is installed here.

    Raises SettingsError or MachineError where the job cannot be had on the card.
    """
    settings = judged.request.settings
    shaped = shaped or shape_run(settings, ground)
    batches = batches_per_epoch(ground.buckets, shaped.batch.batch_size)
    length = run_length(settings, batches, shaped.batch.accumulation)
    options = decided_options(
        settings,
        base=judged.base,
        shape=shaped.shape,
        resolution=ground.resolution,
        length=length,
        optimizer_type=shaped.optimizer,
    )
    values = options.by_name()
    if judged.predicts_v is None:
        del values["v_parameterization"]
    found = judge_options(
        judged.request,
        values,
        trainer=judged.trainer,
        family=judged.assumed.family,
        predicts_v=judged.predicts_v,
    )
    if judged.python and not errors_in(found):
        found = (*found, *judge_optimizer(judged.request, options, judged.python))
    return (*shaped.problems, *warmup_steps(settings, length)[1], *found)


def judge_limits(
    judged: Judged,
    ground: Ground,
    shaped: Shaped,
    images: Sequence[ImageItem],
    trigger: str,
    drafting_seconds: float = 0.0,
) -> list[Problem]:
    """What the run would go over of max_hours and max_cost_usd, as in the plan, on the card of
    `ground`."""
    settings = judged.request.settings
    batches = batches_per_epoch(ground.buckets, shaped.batch.batch_size)
    length = run_length(settings, batches, shaped.batch.accumulation)
    name = ground.card.name
    price = price_of(
        set_by_user=settings.price_per_hour,
        host=None,
        gpu_name=name,
        num_gpus=settings.num_processes,
    )
    expected = expected_of(
        settings,
        shaped,
        length,
        gpu_name=name,
        images=images,
        trigger=trigger,
        price=price,
        drafting_seconds=drafting_seconds,
    )
    return over_budget(settings, expected, length)


def ground_of(judged: Judged, card: Card, buckets: Mapping[Size, int]) -> Ground:
    """A card as it would be found, in a usual container: 64 MiB of /dev/shm."""
    return Ground(
        device="cuda",
        card=CardMemory(name=card.name, free_mib=card.free_mib),
        capability=card.capability,
        engine=judged.trainer,
        family=judged.assumed.family,
        is_tiny=judged.assumed.is_tiny,
        resolution=judged.assumed.resolution,
        buckets=buckets,
        text_gb=judged.base.text_gb if judged.base else None,
    )


def likely_ground(judged: Judged, machine: Machine, buckets: Mapping[Size, int]) -> Ground:
    """What `train` would stand on here; on a machine without a card the largest that is known, so
    that only what no card changes is reported."""
    settings = judged.request.settings
    largest = max(cards(), key=lambda each: (each.capability >= (8, 0), each.nameplate_gb))
    ground = ground_of(judged, largest, buckets)
    if settings.device == "cpu" or (judged.assumed.is_tiny and not machine.has_gpu):
        return replace(
            ground, device="cpu", card=CardMemory(name="", free_mib=None), capability=None
        )
    if not machine.has_gpu:
        return ground
    card = CardMemory(name=machine.gpu_name, free_mib=machine.free_mib)
    return replace(ground, card=card, capability=machine.capability)
