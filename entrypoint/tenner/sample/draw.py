# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
"""`python -m tenner.sample.draw JOB.json`: draws the pictures of a job, one event a line.

The LoRA is loaded once, and its strength is changed between pictures; each picture has its own
generator on the CPU, so that a seed gives the same noise at every strength, in every batch and on
every card. A picture that exists with the same `parameters` text is not drawn again, so that an
interrupted job is resumed. Ends with exit 0 and a `done` event naming `samples.json`, or with exit
1 and `failed`.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tenner.core.events import Done, Event, Failed, Phase, Warned
from tenner.core.files import write_atomically
from tenner.core.messages import msg
from tenner.core.temporary_files import part_of
from tenner.families import FAMILIES
from tenner.sample.device import move_to_device
from tenner.sample.job import SAMPLES_FILE, Cell, Sample, SampleJob, Samples
from tenner.sample.load import ADAPTERS, LoadError, load_lora, load_pipeline, lora_tag, set_strength
from tenner.sample.placement import Placement
from tenner.sample.png_text import LoraTag, parameters

SECONDS_BETWEEN_EVENTS = 1.0


def emit(event: Event) -> None:
    print(event.to_json(), flush=True)


class Progress:
    """Reports how many pictures are done, at most once a second between pictures."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done, self._last = name, total, 0, 0.0

    def report(self, detail: str = "") -> None:
        self._last = time.monotonic()
        emit(Phase(name=self.name, detail=detail, done=self.done, total=self.total))

    def step(self, detail: str) -> None:
        if time.monotonic() - self._last >= SECONDS_BETWEEN_EVENTS:
            self.report(detail)

    def finished(self, count: int, detail: str) -> None:
        self.done += count
        self.report(detail)


Load = Callable[[SampleJob], Any]
"""Returns the pipeline of a job's base, without a LoRA."""


def draw(job: SampleJob, load: Load = load_pipeline) -> Path:
    """Draw the missing pictures of the job's cells and write `samples.json`; returns its path.

    Raises LoadError, and torch's out-of-memory error where even one picture does not fit.
    """
    out_dir = Path(job.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    files = {False: job.lora, True: job.lora_ema}  # by `Cell.ema`
    tags = {ema: lora_tag(Path(file)) for ema, file in files.items() if file}
    progress = Progress(job.phase, len(unique_pictures(job.cells)))
    progress.report("loading the model")
    pipe, placement = load(job), Placement(is_whole=True)
    for ema in tags:
        if complaint := load_lora(pipe, Path(str(files[ema])), ADAPTERS[ema], job.network_module):
            emit(Warned(text=complaint, fix=msg("the samples show only what could be loaded")))
    if FAMILIES[job.family].transformer:  # after the LoRA, which is then moved with the rest
        placement = move_to_device(pipe, job.device)
    sampler = Sampler(pipe=pipe, job=job, tags=tags, progress=progress)
    sampler.draw_all()
    listing = Samples(
        samples=tuple(
            Sample(
                cell=cell,
                file=file_name(cell, job),
                width=cell.width or job.width,
                height=cell.height or job.height,
            )
            for cell in job.cells
        ),
        lora=Path(job.lora).name if job.lora else None,
        settings={
            "sampler": type(pipe.scheduler).__name__,
            "steps": job.steps,
            "guidance_scale": job.guidance_scale,
            "weights": "8 bits" if placement.is_8_bit else job.dtype,
        },
    )
    write_atomically(out_dir / SAMPLES_FILE, listing.to_json())
    return out_dir / SAMPLES_FILE


Drawing = tuple[int | None, int | None, int | None, float | None]  # size, steps, guidance
Picture = tuple[float, bool, str, str, int, Drawing]  # strength, EMA, prompt, negative, seed


def unique_pictures(cells: Sequence[Cell]) -> dict[Picture, Cell]:
    """One cell of each different picture, sorted by strength."""
    found: dict[Picture, Cell] = {}
    for cell in sorted(cells, key=lambda each: (each.strength, each.ema)):
        found.setdefault(_picture(cell), cell)
    return found


def _picture(cell: Cell) -> Picture:
    return cell.strength, cell.ema, cell.prompt, cell.negative_prompt, cell.seed, drawing_of(cell)


def drawing_of(cell: Cell) -> Drawing:
    """What the pictures of a batch must share besides the strength: size, steps, guidance."""
    return cell.width, cell.height, cell.steps, cell.guidance_scale


def file_name(cell: Cell, job: SampleJob) -> str:
    """A name for the cell: its index in the job's unique pictures, strength and seed."""
    order = {key: number for number, key in enumerate(unique_pictures(job.cells), start=1)}
    number = order[_picture(cell)]
    average = "-ema" if cell.ema else ""
    return f"{number:03d}-strength{cell.strength:g}{average}-seed{cell.seed}.png"


class Sampler:
    """Draws cells with a loaded pipeline, in batches of one strength."""

    def __init__(
        self, *, pipe: Any, job: SampleJob, tags: Mapping[bool, LoraTag], progress: Progress
    ) -> None:
        self.pipe, self.job, self.tags, self.progress = pipe, job, tags, progress
        self.batch_size = max(1, job.batch_size)
        self.files = {cell: file_name(cell, job) for cell in job.cells}

    def draw_all(self) -> None:
        missing: list[Cell] = []
        for cell in unique_pictures(self.job.cells).values():
            if self.is_drawn(cell):
                self.progress.done += 1
            else:
                missing.append(cell)
        for (strength, ema), cells in groupby(missing, key=lambda cell: (cell.strength, cell.ema)):
            if self.tags:
                set_strength(self.pipe, strength, ADAPTERS[ema])
            for _, alike in groupby(cells, key=drawing_of):
                self.draw_strength(list(alike))

    def draw_strength(self, cells: list[Cell]) -> None:
        """Draw cells of one strength; where a batch does not fit in memory, all further ones are
        half as large."""
        while cells:
            batch, rest = cells[: self.batch_size], cells[self.batch_size :]
            try:
                images = self.images(batch)
            except torch.cuda.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self.batch_size = len(batch) // 2
                torch.cuda.empty_cache()
                continue
            for cell, image in zip(batch, images, strict=True):
                self.save(cell, image)
            self.progress.finished(len(batch), f"strength {batch[0].strength:g}")
            cells = rest

    def images(self, cells: list[Cell]) -> list[Image.Image]:
        job = self.job.of_cell(cells[0])

        def report_step(
            _pipe: Any, step: int, _time: Any, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            self.progress.step(f"strength {cells[0].strength:g}, step {step + 1} of {job.steps}")
            return tensors

        known: dict[str, Any] = {}
        if job.clip_skip and job.clip_skip > 1 and job.family != "sdxl":
            known["clip_skip"] = job.clip_skip - 1  # sd-scripts counts from 1, diffusers from 0
        if FAMILIES[job.family].transformer is None:
            known["guidance_rescale"] = job.guidance_rescale
        if FAMILIES[job.family].drawing.takes_negative:
            known["negative_prompt"] = [cell.negative_prompt for cell in cells]
        found = self.pipe(
            prompt=[cell.prompt for cell in cells],
            width=job.width,
            height=job.height,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(cell.seed) for cell in cells],
            callback_on_step_end=report_step,
            **known,
        )
        return found.images

    def save(self, cell: Cell, image: Image.Image) -> None:
        """Write the picture with its `parameters`, whole or not at all."""
        if all(low == high for low, high in bands(image)):
            emit(
                Warned(
                    text=msg(
                        "the picture at strength {strength}, seed {seed} is one flat colour",
                        strength=f"{cell.strength:g}",
                        seed=cell.seed,
                    ),
                    fix=msg("draw the samples in float32 or bfloat16: float16 may have overflowed"),
                )
            )
        info = PngInfo()
        info.add_text("parameters", self.parameters_of(cell))
        path = Path(self.job.out_dir) / self.files[cell]
        part = part_of(path)
        image.save(part, "PNG", pnginfo=info)
        part.replace(path)

    def is_drawn(self, cell: Cell) -> bool:
        try:
            with Image.open(Path(self.job.out_dir) / self.files[cell]) as image:
                image.load()
                return image.info.get("parameters") == self.parameters_of(cell)
        except OSError:
            return False

    def parameters_of(self, cell: Cell) -> str:
        """The `parameters` text of a cell's picture."""
        sampler = type(self.pipe.scheduler).__name__
        return parameters(cell, self.job, sampler=sampler, lora=self.tags.get(cell.ema))


def bands(image: Image.Image) -> Iterator[tuple[int, int]]:
    """Lowest and highest value of each colour band."""
    for band in image.split():
        low, high = band.getextrema()
        yield int(low), int(high)  # pyright: ignore[reportArgumentType]


def main(argv: Sequence[str], load: Load = load_pipeline) -> int:
    if len(argv) != 1:
        print("usage: python -m tenner.sample.draw JOB.json", file=sys.stderr)
        return 2
    try:
        job = SampleJob.from_json(Path(argv[0]).read_text(encoding="utf-8"))
        if job.num_threads:
            torch.set_num_threads(job.num_threads)
        path = draw(job, load)
    except LoadError as error:
        emit(Failed(kind="base_model", text=str(error)))
        return 1
    except torch.cuda.OutOfMemoryError as error:
        fix = msg("draw smaller pictures, or draw on the CPU")
        emit(
            Failed(
                kind="oom",
                text=msg("one picture does not fit in memory: {error}", error=error),
                fix=fix,
            )
        )
        return 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        emit(Failed(kind="other", text=msg("the samples could not be drawn: {error}", error=error)))
        return 1
    emit(Done(path=str(path), step=len(job.cells)))
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)  # all files are closed; torch's teardown takes a second
