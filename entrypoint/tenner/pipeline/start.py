"""A plan handed to its engine: the files and arguments of a run, and how its lines are read."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tenner.base.tokenizers import tokenizer_names
from tenner.core.command import Command
from tenner.core.files import write_atomically
from tenner.core.run_dir import RunDir
from tenner.core.train_job import TrainItem, TrainJob
from tenner.dataset import Dataset
from tenner.engines.choice import ChosenEngine
from tenner.engines.native import engine as native_engine
from tenner.engines.sd_scripts.arguments import Paths
from tenner.engines.sd_scripts.engine import THREADS_PER_PROCESS, Job
from tenner.engines.sd_scripts.run import BROKEN_STATE_EXIT, SdScriptsRun
from tenner.engines.train_options import TrainOptions
from tenner.planning.plan import Plan
from tenner.rules.network import OWN_NETWORK_ARGS
from tenner.rules.written import keyword_arguments
from tenner.supervision.training import Engine

_NOT_FOR_OURS = ("text_encoder_lr", "optimizer_args", "resolution", "zero_terminal_snr")
"""Options whose form differs between the plan and a job of our own engine."""


def own_engine(
    plan: Plan,
    run_dir: RunDir,
    chosen: ChosenEngine,
    *,
    items: Sequence[TrainItem],
    held_out: Sequence[TrainItem] = (),
    tokenizers: Path | None,
    latents: Path | None = None,
    cpus: int,
) -> Engine:
    """The built-in trainer for this plan. Each attempt's job is written to the run's `job.json`.

    `tokenizers` is the folder of CLIP's tokenizers, for a base that brings none; `latents` one
    of cached latents, shared with other runs.
    """
    job = train_job(plan, run_dir, items=items, num_threads=cpus if plan.device == "cpu" else None)
    job = replace(job, validation_items=tuple(held_out))
    if latents:
        job = replace(job, cache_dir=str(latents.absolute()))
    if tokenizers:
        first, *second = (str(tokenizers / name) for name in tokenizer_names(plan.base.family))
        job = replace(job, tokenizer=first, tokenizer_2=second[0] if second else None)

    def command(state: Path | None) -> Command:
        attempt_job = replace(job, resume=str(state) if state else None)
        write_atomically(run_dir.job, attempt_job.to_json())
        started = native_engine.command(
            run_dir.job.absolute(),
            chosen.python,
            num_processes=plan.num_processes,
            threads_per_process=max(1, min(THREADS_PER_PROCESS, cpus // plan.num_processes)),
        )
        return Command(argv=started.argv, env=started.env)

    return Engine(
        name="the built-in trainer",
        command=command,
        read=native_engine.read,
        broken_state_exit=native_engine.EngineExit.BROKEN_STATE,
    )


def train_items(dataset: Dataset, *, random_crop: bool = False) -> tuple[TrainItem, ...]:
    """The dataset as the built-in trainer takes it: every image with its bucket and crop, or to be
    cropped at random positions."""
    found: list[TrainItem] = []
    for image in dataset.images:
        at = dataset.bucket_of(image)
        found.append(
            TrainItem(
                image=str(image.path.absolute()),
                caption=image.caption,
                bucket=at.bucket,
                resized=at.resized,
                num_repeats=image.num_repeats,
                original=image.size,
                crop_left=None if random_crop else at.crop[0],
                crop_top=None if random_crop else at.crop[1],
                random_crop=random_crop,
                is_reg=image.is_reg,
                folder=image.path.parent.name,
            )
        )
    return tuple(found)


def train_job(
    plan: Plan, run_dir: RunDir, *, items: Sequence[TrainItem], num_threads: int | None
) -> TrainJob:
    """The plan as a job of the built-in trainer."""
    options = plan.options
    by_name = {**options.by_name(), **network_arguments(options)}
    known = {each.name for each in fields(TrainJob)} - set(_NOT_FOR_OURS)
    same: dict[str, Any] = {
        key: value for key, value in by_name.items() if key in known and value is not None
    }
    same |= {
        "base": str(plan.base.path.absolute()),
        "base_name": plan.base.public_name,
        "family": plan.base.family,
        "items": tuple(items),
        "resolution": options.resolution,
        "text_encoder_lr": options.text_encoder_lr,
        "optimizer_args": keyword_arguments(options.optimizer_args),
        "zero_terminal_snr": options.zero_terminal_snr,
        "output_dir": str(run_dir.checkpoints.absolute()),
        "output_name": plan.output_name,
        "state_dir": str(run_dir.state.absolute()),
        "log_dir": str((run_dir.path / "logs").absolute()),
        "save_state_every_minutes": plan.state_minutes,
        "stop_file": str(run_dir.stop_file.absolute()),
        "num_threads": num_threads,
    }
    return TrainJob(**same)


def sd_scripts_engine(
    plan: Plan,
    run_dir: RunDir,
    chosen: ChosenEngine,
    *,
    train_data_dir: Path,
    reg_data_dir: Path | None,
    tokenizers: Path | None,
    cpus: float,
) -> Engine:
    """sd-scripts for this plan, on a dataset in its folder convention."""
    assert chosen.trainer is not None
    vae = plan.options.vae
    run = SdScriptsRun(
        job=Job(
            trainer=chosen.trainer,
            family=plan.base.family,
            paths=Paths(
                base_model=plan.base.path.absolute(),
                train_data_dir=train_data_dir.absolute(),
                reg_data_dir=reg_data_dir.absolute() if reg_data_dir else None,
                output_dir=run_dir.checkpoints.absolute(),
                output_name=plan.output_name,
                logging_dir=(run_dir.path / "logs").absolute(),
                tokenizers=tokenizers,
                vae=Path(vae) if vae else None,
                sample_prompts=_prompts_file(plan, run_dir),
                further={key: path.absolute() for key, path in plan.base.further.items()},
            ),
            options=plan.options,
            num_steps=plan.length.num_steps,
            steps_per_epoch=plan.length.steps_per_epoch,
            num_processes=plan.num_processes,
            on_cpu=plan.device == "cpu",
            cpus=cpus,
            state_minutes=plan.state_minutes,
        ),
        run_dir=run_dir,
    )
    return Engine(
        name="sd-scripts", command=run.command, read=run.read, broken_state_exit=BROKEN_STATE_EXIT
    )


def _prompts_file(plan: Plan, run_dir: RunDir) -> Path | None:
    """The prompts as a file, where sd-scripts is to draw samples itself. Raises OSError."""
    prompts = plan.options.sample_prompts
    schedule = ("sample_every_n_epochs", "sample_every_n_steps", "sample_at_first")
    if prompts is None or not any(map(plan.options.only_sd_scripts, schedule)):
        return None
    file = run_dir.path.absolute() / "sample_prompts.txt"
    write_atomically(file, "".join(f"{line}\n" for line in prompts))
    return file


def network_arguments(options: TrainOptions) -> dict[str, Any]:
    """Fields of a job that were given as sd-scripts' network_args; the rules refuse others."""
    given = keyword_arguments(options.network_args)
    return {OWN_NETWORK_ARGS[key]: value for key, value in given.items()}
