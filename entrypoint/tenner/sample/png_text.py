"""The text in a picture's metadata: how it was drawn, as A1111 writes and reads it.

The layout is that of A1111's `create_infotext`: the prompt, a line `Negative prompt:`, and a line
of `Key: value` pairs, under the PNG text key `parameters`. Values with a comma, a colon or a line
break are quoted as JSON, as A1111 does. ComfyUI, Forge and Civitai read the same text.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from tenner.sample.job import Cell, SampleJob

# diffusers' scheduler class -> A1111's name for the sampler
SAMPLER_NAMES = {
    "DDIMScheduler": "DDIM",
    "PNDMScheduler": "PLMS",
    "LMSDiscreteScheduler": "LMS",
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "HeunDiscreteScheduler": "Heun",
    "KDPM2DiscreteScheduler": "DPM2",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSinglestepScheduler": "DPM++ 2S a",
    "UniPCMultistepScheduler": "UniPC",
    "DDPMScheduler": "DDPM",
}


@dataclass(frozen=True, kw_only=True)
class LoraTag:
    """A LoRA's name in prompts, with A1111's short hash of its tensors if known."""

    name: str
    short_hash: str = ""


def parameters(cell: Cell, job: SampleJob, *, sampler: str, lora: LoraTag | None) -> str:
    """The `parameters` text of one picture."""
    job = job.of_cell(cell)
    prompt = cell.prompt
    if lora and cell.strength != 0:
        prompt = f"{prompt} <lora:{lora.name}:{cell.strength:g}>".lstrip()
    pairs: dict[str, str] = {
        "Steps": str(job.steps),
        "Sampler": SAMPLER_NAMES.get(sampler, sampler),
        "CFG scale": f"{job.guidance_scale:g}",
        "Seed": str(cell.seed),
        "Size": f"{job.width}x{job.height}",
        "Model": Path(job.base).stem if job.base.endswith(".safetensors") else Path(job.base).name,
    }
    if job.clip_skip and job.clip_skip > 1:
        pairs["Clip skip"] = str(job.clip_skip)
    if job.guidance_rescale:
        pairs["CFG Rescale phi"] = f"{job.guidance_rescale:g}"
    if lora and lora.short_hash and cell.strength != 0:
        pairs["Lora hashes"] = f"{lora.name}: {lora.short_hash}"
    lines = [prompt]
    if cell.negative_prompt:
        lines.append(f"Negative prompt: {cell.negative_prompt}")
    lines.append(", ".join(f"{key}: {_quote(value)}" for key, value in pairs.items()))
    return "\n".join(lines)


def _quote(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if set(value) & set(",:\n") else value
