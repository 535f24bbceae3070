# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""FLUX.1 as a diffusers pipeline, from the single files that it was trained with.

Sizes are read from the tensors; nothing is fetched. The transformer is read by diffusers' own
`from_single_file`, as in other programs with diffusers.
"""

from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTextModel

from tenner.base.tokenizers import open_clip_tokenizer
from tenner.families.transformers import CLIP_L
from tenner.sample.job import SampleJob
from tenner.sample.parts import (
    autoencoder_config,
    from_single_file,
    open_clip,
    open_t5,
    open_t5_tokenizer,
    part_tensors,
    tensor_shapes,
)

AE = autoencoder_config(scaling_factor=0.3611, shift_factor=0.1159)
"""black-forest-labs/FLUX.1-dev, vae/config.json."""
SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
}
"""The same, scheduler/scheduler_config.json; schnell has no shifting by size."""


def open_flux(job: SampleJob, dtype: torch.dtype) -> Any:
    """The pipeline, on the CPU. Raises OSError, KeyError, RuntimeError or ValueError where a file
    is not the expected one."""
    shapes = tensor_shapes(Path(job.base))
    library: Any = diffusers
    config = _transformer(shapes, _has_guidance(shapes))
    return library.FluxPipeline(
        **open_flux_parts(job, dtype),
        transformer=from_single_file(library.FluxTransformer2DModel, job.base, config, dtype),
    )


def open_flux_parts(job: SampleJob, dtype: torch.dtype) -> dict[str, Any]:
    """All parts of the pipeline but its transformer."""
    has_guidance = _has_guidance(tensor_shapes(Path(job.base)))
    tokenizers = Path(job.tokenizers or "")
    library: Any = diffusers
    return {
        "scheduler": library.FlowMatchEulerDiscreteScheduler(
            shift=3.0 if has_guidance else 1.0, use_dynamic_shifting=has_guidance, **SCHEDULER
        ),
        "vae": from_single_file(library.AutoencoderKL, job.further["ae"], AE, dtype),
        "text_encoder": open_clip(
            part_tensors(job.further["clip_l"]), dtype, CLIPTextModel, "quick_gelu"
        ),
        "tokenizer": open_clip_tokenizer(tokenizers / CLIP_L),
        "text_encoder_2": open_t5(part_tensors(job.further["t5xxl"]), dtype),
        "tokenizer_2": open_t5_tokenizer(tokenizers),
    }


def _has_guidance(shapes: dict[str, list[int]]) -> bool:
    return any("guidance_in" in name for name in shapes)


def _transformer(shapes: dict[str, list[int]], has_guidance: bool) -> dict[str, Any]:
    def number(kind: str) -> int:
        found = {name.split(f"{kind}.")[1].split(".")[0] for name in shapes if f"{kind}." in name}
        return len(found)

    return {
        "_class_name": "FluxTransformer2DModel",
        "num_layers": number("double_blocks"),
        "num_single_layers": number("single_blocks"),
        "guidance_embeds": has_guidance,
    }


def size_shift(scheduler: Any, num_tokens: int) -> float:
    """The shift of the time for a picture of so many tokens."""
    own = scheduler.config
    slope = (own.max_shift - own.base_shift) / (own.max_image_seq_len - own.base_image_seq_len)
    return own.base_shift + slope * (num_tokens - own.base_image_seq_len)


def packed(maps: torch.Tensor) -> torch.Tensor:
    """Latents (pictures, channels, 2 rows, 2 columns) as tokens (pictures, rows x columns, 4
    channels): each is 2 x 2 latents."""
    number, channels, height, width = maps.shape
    rows, columns = height // 2, width // 2
    tokens = maps.view(number, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
    return tokens.reshape(number, rows * columns, 4 * channels)


def unpacked(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The latents of `packed`."""
    maps = tokens.view(len(tokens), rows, columns, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return maps.reshape(len(tokens), -1, 2 * rows, 2 * columns)


def positions(rows: int, columns: int) -> torch.Tensor:
    """Row and column of each token, of the shape (1, tokens, 3)."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    found = torch.stack([torch.zeros_like(row), row, column], dim=-1)
    return found.reshape(1, rows * columns, 3).float()
