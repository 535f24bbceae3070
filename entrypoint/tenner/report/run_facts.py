"""The facts that the page shows, gathered from a run's plan, dataset, settings and history."""

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from tenner import __version__
from tenner.families import FAMILY_NAMES
from tenner.kohya.networks import RANKS, is_ia3
from tenner.planning.decision import num_cpus
from tenner.planning.prepared import Prepared
from tenner.report.facts import (
    ChoiceFact,
    ConceptFact,
    DatasetFacts,
    DatasetImage,
    FileFact,
    Pair,
    ReportFacts,
    SampleSet,
    SettingFact,
    State,
    TimingFact,
    WeightsFact,
)
from tenner.report.history import History
from tenner.report.loaders import loaders_of
from tenner.sample.job import Drawn, Samples
from tenner.settings.model import Settings
from tenner.settings.published import published_request


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the run has found so far, beside its events."""

    lora_file: str = ""
    sample_sets: tuple[SampleSet, ...] = ()
    concept: tuple[ConceptFact, ...] = ()
    concept_definition: str = ""
    weights: tuple[WeightsFact, ...] = ()
    files: tuple[FileFact, ...] = ()
    timings: tuple[TimingFact, ...] = ()


def report_facts(
    prepared: Prepared,
    history: History,
    found: Found,
    *,
    state: State,
) -> ReportFacts:
    """All that the page shows of this run, but for what it cost and what went wrong."""
    plan, base, last = prepared.plan, prepared.base, history.last
    return ReportFacts(
        name=plan.output_name,
        state=state,
        phase=history.phase
        if state in ("training", "trained") and history.phase != "training"
        else "",
        language=prepared.settings.language,
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        trigger=prepared.dataset.trigger,
        family=base.family,
        loaders=loaders_of(
            base.facts,
            prepared.settings.network_module,
            prepared.settings.network_args,
            trains_text=not plan.options.network_train_unet_only,
        ),
        base_name=base.public_name,
        base_is_file=base.layout == "checkpoint" and not base.hub_id,
        base_licence=base.licence,
        engine=plan.engine,
        lora_file=found.lora_file,
        step=last.step if last else 0,
        num_steps=plan.length.num_steps,
        epoch=last.epoch if last else 0,
        num_epochs=plan.length.num_epochs,
        eta_seconds=history.seconds_left,
        images_per_second=last.images_per_second if last else None,
        curve=history.curve(),
        sample_sets=found.sample_sets,
        concept=found.concept,
        concept_definition=found.concept_definition,
        weights=found.weights,
        dataset=dataset_facts(prepared),
        settings=setting_facts(prepared),
        choices=tuple(
            ChoiceFact(name=each.name, value=each.value, reason=each.reason)
            for each in plan.choices
        ),
        machine=machine_facts(prepared),
        files=found.files,
        timings=found.timings,
    )


def dataset_facts(prepared: Prepared) -> DatasetFacts:
    """The dataset's pictures with captions, and its counts."""
    dataset = prepared.dataset
    buckets = dataset.images_by_bucket()
    shapes = ", ".join(f"{width}×{height}" for width, height in sorted(buckets))
    return DatasetFacts(
        num_images=dataset.num_images + len(dataset.held_out),
        num_captions=dataset.num_captions,
        images=tuple(
            DatasetImage(
                path=image.path,
                name=image.source,
                caption=image.caption,
                is_held_out=is_held_out,
            )
            for images, is_held_out in ((dataset.held_out, True), (dataset.images, False))
            for image in images
        ),
        facts=(
            Pair(name="images seen in an epoch", value=str(dataset.num_image_passes)),
            Pair(name="buckets", value=shapes),
            *(
                (Pair(name="held out", value=str(len(dataset.held_out))),)
                if dataset.held_out
                else ()
            ),
            Pair(name="left out", value=str(len(dataset.left_out))),
            Pair(name="corrected", value=str(len(dataset.corrected))),
        ),
    )


def setting_facts(prepared: Prepared) -> tuple[SettingFact, ...]:
    """Every setting with where it came from; undecided ones are among the plan's choices."""
    request = published_request(replace(prepared.request, settings=prepared.settings))
    settings = request.settings
    without = RANKS if is_ia3(settings.network_module, settings.network_args) else ()
    return tuple(
        SettingFact(name=key, value=shown(getattr(settings, key)), source=request.source(key))
        for key in Settings.model_fields
        if key not in without and getattr(settings, key) not in (None, (), {}, "")
    )


def shown(value: object) -> str:
    """A setting's value as one writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        parts = cast("tuple[object, ...]", value)
        return ", ".join(str(part) for part in parts)
    return str(value)


def machine_facts(prepared: Prepared) -> tuple[Pair, ...]:
    """The card with its driver, where one is used, the base's family, cores, memory and system."""
    machine, host = prepared.machine, prepared.machine.host
    pairs = [
        Pair(name="base", value=FAMILY_NAMES[prepared.base.family]),
        Pair(name="cores", value=str(num_cpus(machine))),
        Pair(name="memory", value=f"{host.ram_mib or 0:,} MiB"),
        Pair(name="system", value=f"{os.uname().sysname} {os.uname().machine}"),
    ]
    if machine.has_gpu and prepared.plan.device == "cuda":
        gpu = machine.chosen[0]
        pairs.insert(0, Pair(name="card", value=f"{gpu.name}, {gpu.total_mib or '?'} MiB"))
        pairs.insert(1, Pair(name="driver", value=gpu.driver))
    return tuple(pairs)


def sample_set(drawn: Drawn) -> SampleSet:
    """What was drawn of the finished LoRA. Raises OSError or ValueError."""
    listing: Path = drawn.listing
    return SampleSet.of(Samples.read(listing), listing.parent)
