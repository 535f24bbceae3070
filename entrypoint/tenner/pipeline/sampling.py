"""Draw the pictures that show a LoRA, in a process of their own, and lay them out as a grid."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tenner.core.command import Command
from tenner.core.events import Event, Warned, parse_event
from tenner.core.files import write_atomically
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.core.temporary_files import part_of
from tenner.engines.native.engine import command as trainer_command
from tenner.families import FAMILIES
from tenner.planning.plan import Device
from tenner.planning.prepared import Prepared
from tenner.runs.session import Launch, start_separately
from tenner.sample.job import SAMPLES_FILE, Cell, Drawn, SampleJob
from tenner.supervision.guards import Guard
from tenner.supervision.supervise import Control, follow

MODULE = "tenner.sample.draw"
_DTYPES: dict[str, Literal["float32", "float16", "bfloat16"]] = {
    "no": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
}
_RESCALE, _HIGH = 0.7, 5.0  # arXiv 2305.08891, section 3.4: at high guidance pictures overexpose


def draw(
    job: SampleJob,
    *,
    python: Path,
    run_dir: RunDir,
    control: Control,
    on_event: Callable[[Event], None],
    launch: Launch = start_separately,
    guards: Sequence[Guard] = (),
) -> Drawn | None:
    """Draw a job's pictures into its folder, by a program of the environment of `python`.

    None where a guard ended it, and, with a warning, where it failed: the weights are good without
    pictures. Raises OSError.
    """
    folder = Path(job.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    job_file = folder / "job.json"
    write_atomically(job_file, job.to_json())
    env = {**trainer_command(job_file.absolute(), python).env, **_hub_cache(job)}
    argv = (str(python), "-m", MODULE, str(job_file.absolute()))
    ending = follow(
        launch(Command(argv=argv, env=env), control.environ),
        read=parse_event,
        on_event=on_event,
        log=run_dir.path / "samples.log",
        control=control,
        guards=guards,
    )
    listing = folder / SAMPLES_FILE
    if ending.ended_by is not None and ending.ended_by.reason == "left":
        return None
    if ending.returncode != 0 or not listing.is_file():
        why = ending.failed.text if ending.failed else "\n".join(ending.last_lines[-3:])
        on_event(
            Warned(
                text=msg("no samples: {why}", why=why),
                fix=msg("see {path}", path=run_dir.path / "samples.log"),
            )
        )
        return None
    return Drawn(listing=listing, seconds=ending.seconds)


def _hub_cache(job: SampleJob) -> dict[str, str]:
    """Where the libraries of the process find tokenizers that they look up on the Hub."""
    needed = FAMILIES[job.family].hub_tokenizers and job.tokenizers
    return {"HF_HUB_CACHE": str(job.tokenizers)} if needed else {}


def lay_out(drawn: Drawn, path: Path, *, title: str) -> Drawn:
    """Write the sheet of all drawn pictures to `path`. Raises OSError or ValueError."""
    from tenner.sample.grid import draw_grid, read_tiles

    sheet = draw_grid(read_tiles(drawn.listing), title=title)
    temporary = part_of(path)
    sheet.save(temporary, "PNG", optimize=True)
    temporary.replace(path)
    return Drawn(listing=drawn.listing, grid=path, seconds=drawn.seconds)


def sample_job(
    prepared: Prepared,
    weights: Path,
    cells: Sequence[Cell],
    folder: Path,
    *,
    device: Device,
    cpus: int,
    tokenizers: Path | None,
    average: Path | None = None,
) -> SampleJob:
    """The job that draws `cells` of the LoRA in `weights` (those of its moving average with the
    weights in `average`) into `folder`.

    `cpus` are the cores that it may use where `device` is the CPU; `tokenizers` is the folder of
    CLIP's tokenizers, for a base that brings none.
    """
    settings, plan = prepared.settings, prepared.plan
    width, height = plan.resolution
    base = plan.base
    zero_snr = base.zero_terminal_snr
    trainer = prepared.engine.trainer
    return SampleJob(
        base=str(base.path.absolute()),
        family=base.family,
        cells=tuple(cells),
        out_dir=str(folder.absolute()),
        lora=str(weights.absolute()),
        lora_ema=str(average.absolute()) if average else None,
        tokenizers=str(tokenizers) if tokenizers else None,
        v_parameterization=base.prediction == "v_prediction",
        zero_terminal_snr=zero_snr,
        width=width,
        height=height,
        steps=settings.sample_steps,
        guidance_scale=settings.sample_guidance,
        sampler=settings.sample_sampler,
        trainer=str(trainer.directory.absolute()) if trainer else None,
        network_module=plan.options.network_module or "",
        options=dict(plan.options.engine_options),
        further={key: str(path.absolute()) for key, path in base.further.items()},
        guidance_rescale=_RESCALE if zero_snr and settings.sample_guidance >= _HIGH else 0.0,
        clip_skip=settings.clip_skip,
        device=device,
        dtype=_DTYPES[plan.options.mixed_precision] if device == "cuda" else "float32",
        batch_size=25 if base.is_tiny else 4,
        num_threads=cpus if device == "cpu" else None,
    )
