"""A run's files and nouns, told to the report in plain values."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from tenner import __version__
from tenner.base_model import FAMILY_NAMES
from tenner.event_log import read_event_lines
from tenner.preparation import Prepared, num_cpus
from tenner.report.facts import (
    ChoiceFact,
    ConceptFact,
    DatasetFacts,
    DatasetImage,
    FileFact,
    LossCurve,
    Notice,
    Pair,
    ReportFacts,
    SampleSet,
    SettingFact,
    State,
    TimingFact,
)
from tenner.run_dir import RunDir
from tenner.sample.job import Samples
from tenner.sampling import Drawn
from tenner.settings.model import Settings
from tenner.training import Trained


def report_facts(
    prepared: Prepared,
    place: RunDir,
    *,
    state: State,
    trained: Trained | None,
    drawn: Drawn | None,
    concept: tuple[ConceptFact, ...] = (),
    concept_definition: str = "",
    files: Sequence[FileFact] = (),
    timings: Sequence[TimingFact] = (),
) -> ReportFacts:
    """All that the page shows of this run."""
    plan, base = prepared.plan, prepared.base
    last = _last_step(place)
    return ReportFacts(
        name=plan.output_name,
        state=state,
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        trigger=prepared.dataset.trigger,
        family=base.family,
        base_name=base.hub_id or base.name,
        base_licence=base.licence,
        engine=plan.engine,
        lora_file=trained.weights.path.name if trained else "",
        step=int(last.get("step", 0)),
        num_steps=plan.length.num_steps,
        epoch=int(last.get("epoch", 0)),
        num_epochs=plan.length.num_epochs,
        images_per_second=last.get("images_per_second"),
        curve=loss_curve(place),
        sample_sets=(_sample_set(drawn),) if drawn else (),
        concept=concept,
        concept_definition=concept_definition,
        dataset=dataset_facts(prepared),
        settings=setting_facts(prepared),
        choices=tuple(
            ChoiceFact(name=each.name, value=each.value, reason=each.reason)
            for each in plan.choices
        ),
        machine=machine_facts(prepared),
        notices=tuple(
            Notice(text=each.text, fix=each.fix, level=each.level) for each in plan.notices
        ),
        files=tuple(files),
        timings=tuple(timings),
    )


def loss_curve(place: RunDir) -> LossCurve:
    """The loss of every step over all lives; a step trained twice after a kill counts once, by
    its last word."""
    steps: dict[int, tuple[float, dict[str, float]]] = {}
    epoch_ends: dict[int, int] = {}
    latest = 0
    for line in read_event_lines(place.events):
        if line.get("event") == "step":
            latest = int(line["step"])
            loss = line.get("loss")
            steps[latest] = (float("nan") if loss is None else float(loss), dict(line["lr"]))
        elif line.get("event") == "epoch":
            epoch_ends[int(line["epoch"])] = latest
    ordered = sorted(steps)
    names = sorted({name for step in ordered for name in steps[step][1]})
    return LossCurve(
        steps=ordered,
        losses=[steps[step][0] for step in ordered],
        learning_rates={
            name: [steps[step][1].get(name, 0.0) for step in ordered] for name in names
        },
        epoch_ends=sorted(set(epoch_ends.values())),
    )


def dataset_facts(prepared: Prepared) -> DatasetFacts:
    dataset = prepared.dataset
    buckets = dataset.images_by_bucket()
    shapes = ", ".join(f"{width}×{height}" for width, height in sorted(buckets))
    return DatasetFacts(
        num_images=dataset.num_images,
        num_captions=dataset.num_captions,
        images=tuple(
            DatasetImage(path=image.path, name=image.source, caption=image.caption)
            for image in dataset.images
        ),
        facts=(
            Pair(name="images seen in an epoch", value=str(dataset.num_image_passes)),
            Pair(name="buckets", value=shapes),
            Pair(name="left out", value=str(len(dataset.left_out))),
            Pair(name="mended", value=str(len(dataset.mended))),
        ),
    )


def setting_facts(prepared: Prepared) -> tuple[SettingFact, ...]:
    """Every setting with where it came from; undecided ones are among the plan's choices."""
    settings, request = prepared.settings, prepared.request
    return tuple(
        SettingFact(name=key, value=shown(getattr(settings, key)), source=request.source(key))
        for key in Settings.model_fields
        if getattr(settings, key) not in (None, (), {}, "")
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


def _last_step(place: RunDir) -> dict[str, float]:
    last: dict[str, float] = {}
    for line in read_event_lines(place.events):
        if line.get("event") == "step":
            last = line
    return last


def _sample_set(drawn: Drawn) -> SampleSet:
    listing: Path = drawn.listing
    return SampleSet.of(Samples.read(listing), listing.parent)
