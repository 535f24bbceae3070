"""Draw the pictures that show a LoRA, in a process of their own, and lay them out as a grid."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tenner.core.command import Command
from tenner.core.events import Event, Warned, parse_event
from tenner.core.files import write_atomically
from tenner.core.run_dir import RunDir
from tenner.core.temporary_files import part_of
from tenner.engines.native.engine import command as trainer_command
from tenner.planning.plan import Plan
from tenner.runs.session import Launch, start_anew
from tenner.sample.job import SAMPLES_FILE, Cell, Drawn, SampleJob
from tenner.settings.model import Settings
from tenner.supervision.guards import Guard
from tenner.supervision.supervise import StopRequest, follow

MODULE = "tenner.sample.draw"
_DTYPES: dict[str, Literal["float32", "float16", "bfloat16"]] = {
    "no": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
}
_RESCALE, _HIGH = 0.7, 5.0  # arXiv 2305.08891, section 3.4: at high guidance pictures overexpose


def draw(
    cells: Sequence[Cell],
    folder: Path,
    *,
    settings: Settings,
    plan: Plan,
    weights: Path,
    python: Path,
    tokenizers: Path | None,
    run_dir: RunDir,
    environ: Mapping[str, str],
    stop: StopRequest,
    grace_seconds: float,
    on_event: Callable[[Event], None],
    cpus: int,
    launch: Launch = start_anew,
    guards: Sequence[Guard] = (),
) -> Drawn | None:
    """Draw `cells` into `folder`; None, with a warning, where it failed: the weights are good
    without pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    job = _job(cells, folder, settings=settings, plan=plan, weights=weights, cpus=cpus)
    job = replace(job, tokenizers=str(tokenizers) if tokenizers else None)
    job_file = folder / "job.json"
    write_atomically(job_file, job.to_json())
    started = trainer_command(job_file.absolute(), python)
    argv = (str(python), "-m", MODULE, str(job_file.absolute()))
    ending = follow(
        launch(Command(argv=argv, env=started.env), environ),
        read=parse_event,
        on_event=on_event,
        log=run_dir.path / "samples.log",
        environ=environ,
        stop=stop,
        grace_seconds=grace_seconds,
        guards=guards,
    )
    listing = folder / SAMPLES_FILE
    if ending.ended_by is not None and ending.ended_by.reason == "left":
        return None
    if ending.returncode != 0 or not listing.is_file():
        why = ending.failed.text if ending.failed else "\n".join(ending.last_lines[-3:])
        on_event(Warned(text=f"no samples: {why}", fix=f"see {run_dir.path / 'samples.log'}"))
        return None
    return Drawn(listing=listing, seconds=ending.seconds)


def lay_out(drawn: Drawn, path: Path, *, title: str) -> Drawn:
    """Write the sheet of all drawn pictures to `path`. Raises OSError or ValueError."""
    from tenner.sample.grid import draw_grid, read_tiles

    sheet = draw_grid(read_tiles(drawn.listing), title=title)
    temporary = part_of(path)
    sheet.save(temporary, "PNG", optimize=True)
    temporary.replace(path)
    return Drawn(listing=drawn.listing, grid=path, seconds=drawn.seconds)


def _job(
    cells: Sequence[Cell],
    folder: Path,
    *,
    settings: Settings,
    plan: Plan,
    weights: Path,
    cpus: int,
) -> SampleJob:
    width, height = plan.resolution
    base = plan.base
    tiny = base.is_tiny
    zero_snr = base.zero_terminal_snr
    return SampleJob(
        base=str(base.path.absolute()),
        family=base.family,
        cells=tuple(cells),
        out_dir=str(folder.absolute()),
        lora=str(weights.absolute()),
        v_parameterization=base.prediction == "v_prediction",
        zero_terminal_snr=zero_snr,
        width=width,
        height=height,
        steps=settings.sample_steps,
        guidance_scale=settings.sample_guidance,
        sampler=settings.sample_sampler,
        guidance_rescale=_RESCALE if zero_snr and settings.sample_guidance >= _HIGH else 0.0,
        clip_skip=settings.clip_skip,
        device=plan.device,
        dtype=_DTYPES[plan.options.mixed_precision] if plan.device == "cuda" else "float32",
        batch_size=25 if tiny else 4,
        num_threads=cpus if plan.device == "cpu" else None,
    )
