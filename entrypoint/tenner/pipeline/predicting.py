"""What an SDXL base predicts, measured where neither its file nor its tensors state it.

A process of the built-in trainer has the base answer for two pictures of the dataset at high noise
(timesteps 900 and later), where noise and v differ most: nearly all of what the U-Net sees is
noise, and v is nearly the picture itself, with its sign turned. A base that was trained on noise
errs by a few per cent of the noise's variance of 1; one that was trained on v, read as noise, by
more than 1. Done once to a run, where a card is there.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tenner.base.choice import ASSUMED
from tenner.base.prediction import PREDICTION_NAMES, Prediction
from tenner.base.tokenizers import tokenizer_names, write_clip_tokenizers
from tenner.core.errors import Problem
from tenner.core.events import Event, Validated
from tenner.core.files import write_json
from tenner.core.messages import NO_TEXT, msg
from tenner.core.temporary_files import temporary_folder
from tenner.core.train_job import TrainJob
from tenner.engines.native import engine
from tenner.pipeline.start import train_items
from tenner.planning.decision import num_cpus, plan_again
from tenner.planning.prepared import Prepared
from tenner.supervision.supervise import Control, StopRequest, follow

MODULE = "tenner.engines.native.prediction_check"
NUM_PICTURES = 2
FROM_TIMESTEP = 900
KNOWS_NOISE = 0.5
"""Read as noise, a base that was trained on noise errs by less than this at high noise; one that
answers nothing errs by 1."""
KNOWS_V = 0.9
"""Read as v, a base that was trained on v errs by less than this share of its error as noise."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Mean squared errors of the base's answers, and of answering nothing held against v."""

    as_noise: float
    as_v: float
    nothing: float

    @property
    def prediction(self) -> Prediction | None:
        """What the base was trained for; None where neither reading fits."""
        if self.as_noise < KNOWS_NOISE and self.as_noise < self.as_v:
            return "epsilon"
        if self.as_v < self.nothing and self.as_v < KNOWS_V * self.as_noise:
            return "v_prediction"
        return None


def with_measured_prediction(
    prepared: Prepared,
    *,
    note: Path,
    environ: Mapping[str, str],
    stop: StopRequest,
    report: Callable[[str, str], None],
) -> Prepared:
    """The run with its base's prediction measured, where it was only assumed and a card is there.

    The measurement is stored in the file `note`, so that later attempts train the same.
    """
    base = prepared.base
    if base.prediction_from or base.family != "sdxl" or prepared.plan.device != "cuda":
        return prepared
    measured = _noted(note)
    if measured is None:
        report("base model", "it does not state what it predicts: measured on two pictures")
        measured = measure(prepared, environ=environ, stop=stop)
    if measured is None:
        report("base model", f"it could not be measured; {ASSUMED.text}")
        return prepared
    write_json(
        note, {"as_noise": measured.as_noise, "as_v": measured.as_v, "nothing": measured.nothing}
    )
    report("base model", f"error as noise {measured.as_noise:.2f}, as v {measured.as_v:.2f}")
    return measured_run(prepared, measured)


def measured_run(prepared: Prepared, measured: Measured) -> Prepared:
    """The run planned anew with what was measured. Pure."""
    found = measured.prediction
    if found is None:
        return prepared
    notices = tuple(each for each in prepared.base.notices if each != ASSUMED)
    base = replace(
        prepared.base,
        prediction=found,
        prediction_from="a measurement",
        notices=(*notices, _notice(found)),
    )
    request = prepared.request
    if request.source("noise_offset") == "default":  # it was decided for the other prediction
        undecided = request.settings.model_copy(update={"noise_offset": None})
        request = replace(request, settings=undecided)
    prepared = replace(prepared, request=request, base=base)
    plan = plan_again(prepared)
    others = [each for each in prepared.plan.notices if each not in (*plan.notices, ASSUMED)]
    plan = replace(plan, notices=(*plan.notices, *others))
    return replace(prepared, plan=plan)


def measure(
    prepared: Prepared, *, environ: Mapping[str, str], stop: StopRequest
) -> Measured | None:
    """The base's errors under either reading; None where the process failed."""
    with temporary_folder("prediction") as name:
        folder = Path(name)
        path = folder / "job.json"
        path.write_text(_job(prepared, folder).to_json(), encoding="utf-8")
        command = engine.command(path, prepared.engine.python, module=MODULE)
        events: list[Event] = []
        ending = follow(
            command,
            read=engine.read,
            on_event=events.append,
            log=folder / "log",
            control=Control(
                environ={**environ, **prepared.machine.child_env}, stop=stop, grace_seconds=5.0
            ),
        )
    losses = [event.loss for event in events if isinstance(event, Validated)]
    if ending.returncode or len(losses) != 3:
        return None
    return Measured(as_noise=losses[0], as_v=losses[1], nothing=losses[2])


def _job(prepared: Prepared, folder: Path) -> TrainJob:
    """A job that trains nothing: the base, two pictures, and a LoRA of rank 1 that stays zero."""
    plan, base = prepared.plan, prepared.base
    train = tuple(image for image in prepared.dataset.images if not image.is_reg)
    items = train_items(replace(prepared.dataset, images=train[:NUM_PICTURES]))
    tokenizers: list[str] = []
    if base.layout == "checkpoint":
        written = write_clip_tokenizers(folder / "tokenizers")
        tokenizers = [str(written / each) for each in tokenizer_names(base.family)]
    return TrainJob(
        base=str(base.path.absolute()),
        family=base.family,
        vae=str(plan.options.vae) if plan.options.vae else None,
        tokenizer=tokenizers[0] if tokenizers else None,
        tokenizer_2=tokenizers[1] if len(tokenizers) > 1 else None,
        items=items,
        validation_items=items,
        resolution=plan.resolution,
        output_dir=str(folder),
        output_name="check",
        state_dir=str(folder),
        mixed_precision=plan.options.mixed_precision,
        network_dim=1,
        network_alpha=1.0,
        network_train_unet_only=True,
        min_timestep=FROM_TIMESTEP,
        num_threads=num_cpus(prepared.machine) if plan.device == "cpu" else None,
    )


def _notice(found: Prediction) -> Problem:
    name = PREDICTION_NAMES[found]
    text = msg("the base does not state what it predicts: measured, it predicts {name}", name=name)
    fix = NO_TEXT
    if found == "v_prediction":
        fix = msg("if its page speaks of zero terminal SNR, set zero_terminal_snr = true")
    return Problem(text=text, fix=fix, level="note")


def _noted(note: Path) -> Measured | None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return Measured(
            as_noise=float(found["as_noise"]),
            as_v=float(found["as_v"]),
            nothing=float(found["nothing"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
