"""`batch_size = "max"` measured: the engine itself makes two steps of the largest bucket, and the
plan is made anew with what the card really had to give.

Two steps, since optimizers keep their state from the first on. Memory is read from nvidia-smi
while the engine works, so that it holds all that the process takes, with either engine. Where
nothing can be read the memory model's word stands; a batch that turns out too large is halved by
the run itself.
"""

import shutil
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tenner.dataset import Dataset
from tenner.decision import make_plan
from tenner.events import Event, Failed
from tenner.fitting import bare_engine
from tenner.machine import query_gpus
from tenner.plan import Length, Plan
from tenner.preparation import Prepared
from tenner.run_dir import RunDir
from tenner.sizing import Choice
from tenner.supervise import StopRequest, follow

STEPS = 2
_EVERY_SECONDS = 0.2
_LEAST_SHARE = 0.3
"""Less than this share of the model's word is no measurement: another process ended meanwhile, or
the steps came between two looks."""
TOO_MUCH = 1.25
"""How far off the model is taken to be where the step ran out of memory."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What two steps took, in 1e9 bytes; None where the card did not say."""

    used_gb: float | None
    out_of_memory: bool = False


def with_measured_batch(
    prepared: Prepared,
    *,
    environ: Mapping[str, str],
    stop: StopRequest,
    say: Callable[[str, str], None],
) -> Prepared:
    """The run with its batch corrected by measurement, where `max` was asked for on a card."""
    modelled = prepared.plan.needed_gb
    if prepared.settings.batch_size != "max" or modelled is None:
        return prepared
    batch = int(str(prepared.plan.options["train_batch_size"]))
    say("machine", f"measuring the memory of a step at batch {batch}")
    probe = measure(prepared, environ=environ, stop=stop)
    correction = correction_of(probe, modelled)
    if correction is None:
        say("machine", "the card told nothing of use: the memory model's word stands")
        return prepared
    said = "ran out of memory" if probe.out_of_memory else f"took {probe.used_gb or 0:.1f} GB"
    choice = Choice(
        name="memory",
        value=f"{correction:.2f} of the model's word",
        reason=f"measured: batch {batch} {said}, the model said {modelled:.1f} GB",
    )
    plan = _planned(prepared, correction)
    say("machine", f"{choice.reason}; trained at batch {plan.options['train_batch_size']}")
    return replace(prepared, plan=replace(plan, choices=(*plan.choices, choice)))


def correction_of(probe: Probe, modelled_gb: float) -> float | None:
    """Measured over modelled memory; None where nothing was measured. Pure."""
    if probe.out_of_memory:
        return TOO_MUCH
    if probe.used_gb is None or probe.used_gb < modelled_gb * _LEAST_SHARE:
        return None
    return probe.used_gb / modelled_gb


def measure(prepared: Prepared, *, environ: Mapping[str, str], stop: StopRequest) -> Probe:
    """Two steps of the largest bucket in a folder of their own, which is removed."""
    with TemporaryDirectory(prefix="tenner-probe-") as folder:
        place = RunDir(Path(folder) / "run").create()
        plan = _two_steps(prepared.plan)
        batch = int(str(plan.options["train_batch_size"]))
        dataset = largest_bucket(prepared.dataset, batch, Path(folder) / "train")
        reduced = replace(prepared, plan=plan, dataset=dataset)
        engine = bare_engine(reduced, place, plan)
        events: list[Event] = []
        surroundings = {**environ, **prepared.machine.child_env}
        with _watching(prepared, environ) as used:
            ending = follow(
                engine.command(None),
                read=engine.read,
                on_event=events.append,
                log=place.engine_log,
                environ=surroundings,
                stop=stop,
                grace_seconds=5.0,
            )
        if any(isinstance(event, Failed) and event.kind == "oom" for event in events):
            return Probe(used_gb=None, out_of_memory=True)
        return Probe(used_gb=None if ending.returncode else max(used, default=None))


def largest_bucket(dataset: Dataset, batch_size: int, folder: Path) -> Dataset:
    """The images of the bucket with most pixels, repeated to fill a batch, in `folder` as
    sd-scripts takes them."""
    area = max(width * height for width, height in dataset.images_by_bucket())
    images = [
        image
        for image in dataset.images
        if not image.is_reg
        and dataset.place_of(image).bucket[0] * dataset.place_of(image).bucket[1] == area
    ] or [image for image in dataset.images if not image.is_reg]
    repeats = -(-batch_size * STEPS // len(images))
    concept = folder / f"{repeats}_probe"
    concept.mkdir(parents=True)
    for number, image in enumerate(images):
        path = concept / f"{number}{image.path.suffix}"
        shutil.copyfile(image.path, path)
        path.with_suffix(".txt").write_text(image.caption, encoding="utf-8")
    items = tuple(replace(image, num_repeats=repeats) for image in images)
    return replace(dataset, images=items, held_out=(), train_dir=folder, reg_dir=None)


def _two_steps(plan: Plan) -> Plan:
    options = {
        **plan.options,
        "max_train_steps": STEPS,
        "gradient_accumulation_steps": 1,
        "lr_warmup_steps": 0,
        "save_every_n_epochs": None,
        "save_every_n_steps": None,
    }
    return replace(plan, options=options, length=Length(num_steps=STEPS, steps_per_epoch=STEPS))


def _planned(prepared: Prepared, correction: float) -> Plan:
    return make_plan(
        prepared.request,
        prepared.base,
        prepared.machine,
        prepared.plan.device,
        prepared.engine,
        prepared.dataset,
        prepared.plan.resolution,
        prepared.host_price,
        prepared.broken,
        correction,
    )


@contextmanager
def _watching(prepared: Prepared, environ: Mapping[str, str]) -> Generator[list[float]]:
    """Collects what the chosen cards hold beyond what they held before, the largest of them, in
    1e9 bytes, a look every fifth of a second."""
    before = {(gpu.index, gpu.uuid): gpu.free_mib for gpu in prepared.machine.chosen}
    used: list[float] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_EVERY_SECONDS):
            for gpu in query_gpus(environ).gpus:
                free = before.get((gpu.index, gpu.uuid))
                if free is not None and gpu.free_mib is not None:
                    used.append((free - gpu.free_mib) * 2**20 / 1e9)

    thread = threading.Thread(target=look, name="memory", daemon=True)
    thread.start()
    try:
        yield used
    finally:
        ended.set()
        thread.join(timeout=20)
