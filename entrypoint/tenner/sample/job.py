"""The job of the sampling process: a JSON file, read by `python -m tenner.sample.draw`.

Only the standard library is used: the file is written by tenner and read in the trainer's
environment, which holds nothing else of tenner's dependencies.
"""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from tenner.core.family import Family


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture of a grid. `strength` 0 is the base model itself, without the LoRA; `ema` is
    drawn with the moving average of its weights.

    `group`, `row` and `column` are its labels in the grid. `width`, `height`
    (pixels), `steps` and `guidance_scale` are the job's where they are None.
    """

    prompt: str
    negative_prompt: str = ""
    strength: float = 1.0
    seed: int = 0
    group: str = ""
    row: str = ""
    column: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    ema: bool = False


@dataclass(frozen=True, kw_only=True)
class SampleJob:
    """Everything the sampling process needs.

    `base` is a folder in diffusers layout or a single `.safetensors`; for the latter
    `tokenizers` is the folder that holds the CLIP tokenizers. `lora` may be missing when the
    base alone is drawn; `lora_ema` is the moving average of its weights, for the cells of it.
    `sampler` is one of sd-scripts' `sample_sampler` names; None takes the scheduler of the base.
    `batch_size` is the largest: it is halved where memory does not suffice.
    `guidance_rescale` is phi of arXiv 2305.08891, section 3.4; v-prediction bases with zero
    terminal SNR need about 0.7 at high guidance.
    """

    base: str
    family: Family
    cells: tuple[Cell, ...]
    out_dir: str
    lora: str | None = None
    lora_ema: str | None = None
    tokenizers: str | None = None
    v_parameterization: bool = False
    zero_terminal_snr: bool = False
    width: int = 512
    height: int = 512
    steps: int = 25
    guidance_scale: float = 7.0
    guidance_rescale: float = 0.0
    sampler: str | None = None
    clip_skip: int | None = None
    device: str = "cpu"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    batch_size: int = 4
    num_threads: int | None = None
    phase: str = "sampling"
    network_module: str = ""
    """sd-scripts' kind of network that the LoRA is; empty for a plain one."""
    trainer: str | None = None
    """sd-scripts' folder, for families that are drawn with its code."""
    further: dict[str, str] = field(default_factory=dict[str, str])
    """Files of text encoders and autoencoder, by sd-scripts' option."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Options of the training that its trainer alone has, such as the system prompt."""

    def of_cell(self, cell: Cell) -> "SampleJob":
        """The job with the size, steps and guidance of one of its cells."""
        guidance = cell.guidance_scale
        return replace(
            self,
            width=cell.width or self.width,
            height=cell.height or self.height,
            steps=cell.steps or self.steps,
            guidance_scale=self.guidance_scale if guidance is None else guidance,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "SampleJob":
        """Raises ValueError, TypeError or KeyError on anything that is not a job."""
        found: dict[str, Any] = json.loads(text)
        found["cells"] = tuple(Cell(**cell) for cell in found["cells"])
        return cls(**found)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture that was drawn: its cell and its file, relative to the folder of `samples.json`."""

    cell: Cell
    file: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The content of `samples.json`: the pictures of one job, in the order of its cells."""

    samples: tuple[Sample, ...]
    lora: str | None = None
    step: int | None = None
    epoch: int | None = None
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Samples":
        found: dict[str, Any] = json.loads(text)
        known = {each.name for each in fields(cls)}
        samples = tuple(map(_sample, found.pop("samples")))
        return cls(samples=samples, **{key: value for key, value in found.items() if key in known})

    @classmethod
    def read(cls, path: Path) -> "Samples":
        """Read `samples.json`. Raises OSError, or ValueError where it is not one."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} does not list samples: {error}") from error


def _sample(found: dict[str, Any]) -> Sample:
    cell = Cell(**found.pop("cell"))
    return Sample(cell=cell, **found)


SAMPLES_FILE = "samples.json"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Drawn pictures: their `samples.json` and their grid."""

    listing: Path
    grid: Path | None = None
    seconds: float = 0.0
