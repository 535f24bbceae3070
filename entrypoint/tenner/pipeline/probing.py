"""The memory of a run measured: the engine itself makes two steps of the largest bucket, and the
plan is made anew with what the card really had to give.

Done where `batch_size = "max"` fills the card, and where `"auto"` leans on a model that is unsure.
Two steps, since optimizers keep their state from the first on. The built-in trainer reports the
peak of its second step, to which CUDA's context is added; what came before it (the VAE, the search
for the fastest convolutions) is not in it. With sd-scripts memory is read from nvidia-smi while it
works, and holds all that the process took. Where nothing can be read the memory model's estimate
is used; a batch that turns out too large is halved by the run itself.
"""

import shutil
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tenner.core.events import Event, Failed, MemoryUsed
from tenner.core.family import Family
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.core.temporary_files import temporary_folder
from tenner.dataset import Dataset
from tenner.hardware import query_gpus
from tenner.pipeline.fitting import bare_engine
from tenner.pipeline.preflight import ALONE
from tenner.planning.batch_choice import HEADROOM, Choice
from tenner.planning.decision import plan_again
from tenner.planning.length import Length
from tenner.planning.plan import EngineName, Plan
from tenner.planning.prepared import Prepared
from tenner.planning.vram import CONTEXT_GB, is_measured
from tenner.runs.session import Session
from tenner.supervision.supervise import Control, StopRequest, follow

STEPS = 2
_EVERY_SECONDS = 0.2
_LEAST_SHARE = 0.3
"""Less than this share of the estimate is no measurement: another process ended meanwhile, or
the steps came between two looks."""
TOO_MUCH = 1.25
"""How far off the model is taken to be where the step ran out of memory."""
MODEL_ERROR = 0.08
"""The most that the memory model was too low by in what it was held against (7.7 %)."""
_FAR_SHARE = 0.5
"""Below this share of the free memory an unknown card or family is not worth measuring: the model
would have to be wrong by half."""
_CALIBRATED_FROM = (8, 0)
"""Every card that the model was held against computes bf16."""
_NO_MATTER_OF_MEMORY = frozenset(
    (
        *("seed", "learning_rate", "unet_lr", "text_encoder_lr", "lr_scheduler"),
        *("lr_scheduler_num_cycles", "lr_scheduler_power", "lr_warmup_steps"),
        *("max_train_steps", "max_train_epochs", "save_every_n_epochs", "save_every_n_steps"),
        *("output_dir", "output_name", "training_comment", "network_alpha", "noise_offset"),
        *("min_snr_gamma", "prior_loss_weight", "caption_dropout_rate"),
    )
)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What two steps took, in 1e9 bytes; None where the card did not report it."""

    used_gb: float | None
    out_of_memory: bool = False


def with_measured_batch(
    prepared: Prepared,
    *,
    environ: Mapping[str, str],
    stop: StopRequest,
    report: Callable[[str, str], None],
    session: Session = ALONE,
) -> Prepared:
    """The run with its batch corrected by measurement, where there is a reason to measure.

    Raises MachineError where what was measured leaves no batch that fits.
    """
    plan, modelled = prepared.plan, prepared.plan.needed_gb
    why = reason_to_measure(
        prepared.settings.batch_size,
        needed_gb=modelled,
        free_gb=(prepared.machine.free_mib or 0) * 2**20 / 1e9,
        family=prepared.base.family,
        capability=prepared.machine.capability,
        compiled=prepared.settings.torch_compile,
        engine=prepared.engine.name,
    )
    if modelled is None or not why:
        return prepared
    batch, key = plan.options.train_batch_size, _what_is_measured(prepared)
    correction, known = (session.corrections or {}).get(key), msg("an earlier run here measured it")
    if correction is None:
        report("machine", f"measuring the memory of a step at batch {batch}: {why}")
        session.empty_card()
        probe = measure(prepared, environ=environ, stop=stop)
        correction = correction_of(probe, modelled)
        outcome = (
            msg("ran out of memory")
            if probe.out_of_memory
            else msg("took {used_gb} GB", used_gb=f"{probe.used_gb or 0:.1f}")
        )
        known = msg(
            "measured: batch {batch} {outcome}, the model estimated {modelled} GB",
            batch=batch,
            outcome=outcome,
            modelled=f"{modelled:.1f}",
        )
    if correction is None:
        report("machine", msg("the card reported no memory: the model's estimate is used"))
        return prepared
    if session.corrections is not None:
        session.corrections[key] = correction
    choice = Choice(
        name="memory",
        value=msg("{correction} of the model's estimate", correction=f"{correction:.2f}"),
        reason=known,
    )
    plan = plan_again(prepared, correction=correction)
    report("machine", f"{known}; trained at batch {plan.options.train_batch_size}")
    return replace(prepared, plan=replace(plan, choices=(*plan.choices, choice)))


def reason_to_measure(
    batch_size: int | Literal["auto", "max"],
    *,
    needed_gb: float | None,
    free_gb: float,
    family: Family,
    capability: tuple[int, int] | None,
    compiled: bool = False,
    engine: EngineName = "sd-scripts",
) -> str:
    """Why the plan's memory is measured before the training; empty where there is no need. Pure.

    There is none where the user set a number, or where the card does not report its memory.
    """
    if isinstance(batch_size, int) or needed_gb is None or not free_gb:
        return ""
    if batch_size == "max":
        return msg("max fills the card")
    if needed_gb > free_gb * HEADROOM * (1 - MODEL_ERROR):
        return msg(
            "the model estimates {needed_gb} of {free_gb} GB, within its own error",
            needed_gb=f"{needed_gb:.1f}",
            free_gb=f"{free_gb:.1f}",
        )
    if needed_gb < free_gb * _FAR_SHARE:
        return ""
    if family == "sd2" and engine == "sd-scripts":
        return msg("the memory model was never held against SD 2.x")
    if capability is None or capability < _CALIBRATED_FROM:
        return msg("the memory model was never held against such a card")
    if compiled:
        return msg("the memory model knows nothing of torch.compile")
    if engine == "native" and not is_measured(family, engine):
        return msg("no card has measured the built-in trainer's memory yet")
    return ""


def _what_is_measured(prepared: Prepared) -> str:
    """All that memory depends on, as a name: runs that differ in other things take the same."""
    options = prepared.plan.options.by_name()
    others = {name: value for name, value in options.items() if name not in _NO_MATTER_OF_MEMORY}
    largest = max(width * height for width, height in prepared.dataset.images_by_bucket())
    return repr((prepared.engine.name, str(prepared.base.path), largest, sorted(others.items())))


def correction_of(probe: Probe, modelled_gb: float) -> float | None:
    """Measured over modelled memory; None where nothing was measured. Pure."""
    if probe.out_of_memory:
        return TOO_MUCH
    if probe.used_gb is None or probe.used_gb < modelled_gb * _LEAST_SHARE:
        return None
    return probe.used_gb / modelled_gb


def measure(prepared: Prepared, *, environ: Mapping[str, str], stop: StopRequest) -> Probe:
    """Two steps of the largest bucket in a folder of their own, which is removed."""
    with temporary_folder("probe") as folder:
        run_dir = RunDir(Path(folder) / "run").create()
        plan = _two_steps(prepared.plan)
        batch = plan.options.train_batch_size
        dataset = largest_bucket(prepared.dataset, batch, Path(folder) / "train")
        reduced = replace(prepared, plan=plan, dataset=dataset)
        engine = bare_engine(reduced, run_dir, plan)
        events: list[Event] = []
        surroundings = {**environ, **prepared.machine.child_env}
        with _watching(prepared, environ) as used:
            ending = follow(
                engine.command(None),
                read=engine.read,
                on_event=events.append,
                log=run_dir.engine_log,
                control=Control(environ=surroundings, stop=stop, grace_seconds=5.0),
            )
        if any(isinstance(event, Failed) and event.kind == "oom" for event in events):
            return Probe(used_gb=None, out_of_memory=True)
        if ending.returncode:
            return Probe(used_gb=None)
        return Probe(used_gb=_peak_reported(events) or max(used, default=None))


def _peak_reported(events: Sequence[Event]) -> float | None:
    """The peak of a step as the engine reported it, with CUDA's context, in 1e9 bytes."""
    reported = [event for event in events if isinstance(event, MemoryUsed)]
    return reported[-1].reserved_bytes / 1e9 + CONTEXT_GB if reported else None


def largest_bucket(dataset: Dataset, batch_size: int, folder: Path) -> Dataset:
    """The images of the bucket with most pixels, repeated to fill a batch, in `folder` as
    sd-scripts takes them."""
    area = max(width * height for width, height in dataset.images_by_bucket())
    images = [
        image
        for image in dataset.images
        if not image.is_reg
        and dataset.bucket_of(image).bucket[0] * dataset.bucket_of(image).bucket[1] == area
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
    options = replace(
        plan.options,
        max_train_steps=STEPS,
        gradient_accumulation_steps=1,
        lr_warmup_steps=0,
        save_every_n_epochs=None,
        save_every_n_steps=None,
    )
    return replace(plan, options=options, length=Length(num_steps=STEPS, steps_per_epoch=STEPS))


@contextmanager
def _watching(prepared: Prepared, environ: Mapping[str, str]) -> Generator[list[float]]:
    """Collects what the chosen cards hold beyond what they held before, the largest of them, in
    1e9 bytes, a look every fifth of a second."""
    here = query_gpus(environ).gpus  # more is free now where a session emptied the card
    free_now = {(gpu.index, gpu.uuid): gpu.free_mib for gpu in here}
    chosen = [(gpu.index, gpu.uuid) for gpu in prepared.machine.chosen]
    before = {name: free_now.get(name) for name in chosen}
    used: list[float] = []
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(_EVERY_SECONDS):
            for gpu in query_gpus(environ).gpus:
                free = before.get((gpu.index, gpu.uuid))
                if free is not None and gpu.free_mib is not None:
                    used.append((free - gpu.free_mib) * 2**20 / 1e9)

    thread = threading.Thread(target=poll, name="memory", daemon=True)
    thread.start()
    try:
        yield used
    finally:
        ended.set()
        thread.join(timeout=20)
