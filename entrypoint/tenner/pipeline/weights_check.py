"""The final weights judged before they are delivered: did they learn, and how much.

They are measured in the trainer's Python (`tenner.lora_files.measuring`), against the base, against
the LoRA that the training went on from, and against the trainer's last state, which holds the same
weights in full precision.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tenner.core.command import Command
from tenner.core.errors import Problem, TennerError, TrainingError, errors_in
from tenner.core.events import Event, Warned, WeightsMeasured
from tenner.core.files import write_atomically
from tenner.core.messages import msg
from tenner.core.network_parts import Part
from tenner.core.run_dir import RunDir
from tenner.engines.native.engine import command as trainer_command
from tenner.engines.train_options import TrainOptions
from tenner.lora_files.judgement import Training, judge
from tenner.lora_files.measured import Measured, MeasureJob
from tenner.lora_files.programs import written_by
from tenner.pipeline.sampler import child_control
from tenner.planning.plan import Plan
from tenner.planning.prepared import Prepared
from tenner.report.facts import WeightsFact
from tenner.runs.context import RunContext
from tenner.supervision.states import states
from tenner.supervision.supervise import follow
from tenner.supervision.training import Trained

MODULE = "tenner.lora_files.measuring"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What was measured, as the page shows it, and what is wrong: `error` where nothing was
    learnt."""

    facts: tuple[WeightsFact, ...] = ()
    error: TennerError | None = None


def judge_weights(
    prepared: Prepared, run_dir: RunDir, context: RunContext, trained: Trained
) -> Judged:
    """Measure and judge the final weights, and emit the results.

    Weights that cannot be measured are a warning: they were found whole and finite before."""
    job = _job(prepared, run_dir, trained)
    context.begin("measuring", "the weights")
    measured = _measured(job, prepared, run_dir, context)
    if isinstance(measured, Problem):
        if context.stop.signal is None:
            context.emit(Warned(text=measured.text, fix=measured.fix))
        return Judged()
    context.emit(WeightsMeasured(path=job.path, parts=_rows(measured)))
    problems = judge(measured, _training(prepared.plan, trained))
    for each in problems:
        if each.level != "error":
            context.emit(Warned(text=each.text, fix=each.fix, level="warning"))
    facts, errors = weights_facts(measured), errors_in(problems)
    if not errors:
        return Judged(facts=facts)
    note = Problem(text=msg("its files are in {path}", path=run_dir.path), level="note")
    return Judged(facts=facts, error=TrainingError(problems=[*errors, note]))


def weights_facts(measured: Measured) -> tuple[WeightsFact, ...]:
    """As the page shows them."""
    return tuple(
        WeightsFact(
            part=part.part,
            num_modules=part.num_modules,
            num_unchanged=part.num_unchanged,
            norm=part.norm if part.num_measured else None,
            ratio=part.ratio,
            moved_ratio=part.moved_ratio if part.moved is not None else None,
        )
        for part in measured.parts
    )


def _job(prepared: Prepared, run_dir: RunDir, trained: Trained) -> MeasureJob:
    weights = prepared.plan.options.network_weights
    start = Path(weights).expanduser() if weights else None
    newest = next(iter(states(run_dir)), None)
    reference = newest / "model.safetensors" if newest else None
    is_same = newest is not None and newest.name == f"step-{trained.step:08d}"
    return MeasureJob(
        path=str(trained.weights.path.absolute()),
        base=str(prepared.base.path.absolute()),
        family=prepared.base.family,
        start=str(start.absolute()) if start and start.exists() else "",
        reference=str(reference.absolute())
        if reference and is_same and reference.is_file()
        else "",
    )


def _measured(
    job: MeasureJob, prepared: Prepared, run_dir: RunDir, context: RunContext
) -> Measured | Problem:
    """Run the measuring program, as any other child of the run: ended by a signal, logged."""
    assert prepared.engine.python
    python, answers = prepared.engine.python, list[str]()
    job_file = run_dir.path / "weights.json"
    write_atomically(job_file, json.dumps(asdict(job), indent=1))
    settings = trainer_command(job_file.absolute(), python).env

    def read(line: str) -> Event | None:
        answers.extend([line] if line.startswith("{") else [])
        return None

    argv = (str(python), "-m", MODULE, str(job_file.absolute()))
    try:
        ending = follow(
            Command(argv=argv, env=settings),
            read=read,
            on_event=context.emit,
            log=run_dir.path / "weights.log",
            control=child_control(prepared, context),
        )
        if ending.returncode == 0:
            return Measured.from_json(answers[-1])
        why = "\n".join(ending.last_lines[-3:])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        why = str(error)
    log = run_dir.path / "weights.log"
    return Problem(
        text=msg("the weights could not be measured: {why}", why=why), fix=msg("see {log}", log=log)
    )


def _training(plan: Plan, trained: Trained) -> Training:
    options = plan.options
    return Training(
        optimizer=options.optimizer_type,
        rates=_rates(options),
        warmup_steps=options.lr_warmup_steps,
        num_steps=trained.step,
        started_from=options.network_weights or "",
        lost=trained.lost_in_saving,
        kind=written_by(options.network_module, options.network_args).kind,
    )


def _rates(options: TrainOptions) -> dict[Part, float]:
    """The learning rates that were trained with, by network part. One of the text encoders' is
    that of both."""
    rates = options.text_encoder_lr
    encoders: tuple[Part, Part] = ("text_encoder", "text_encoder_2")
    return {"unet": options.unet_lr, **dict(zip(encoders, (*rates, rates[-1]), strict=False))}


def _rows(measured: Measured) -> list[dict[str, Any]]:
    return [
        {
            "part": part.part,
            "num_modules": part.num_modules,
            "num_unchanged": part.num_unchanged,
            "norm": part.norm if part.num_measured else None,
            "base_norm": part.base_norm,
            "ratio": part.ratio,
            "moved_ratio": part.moved_ratio,
            "dtype": part.dtype,
        }
        for part in measured.parts
    ]
