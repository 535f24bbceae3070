"""How much memory of a card a LoRA training takes, from sizes that are known before it starts.

`V = context + weights + text encoders + bytes per LoRA parameter + activations x batch + reserve`,
in GB (1e9 bytes). Sizes were counted by tracing the U-Nets; slopes with gradient checkpointing and
the context are measured by others (SimpleTuner's segmented-checkpointing page, 2026-08, on H100
and L40S; arca.live 77209577, 2023-05, on an RTX 4090).
"""

from dataclasses import dataclass
from typing import Literal

Family = Literal["sd1", "sd2", "sdxl"]

CONTEXT_GB = 0.6
RESERVE_GB = 0.5
UNET_GB = {"sd1": 1.72, "sd2": 1.73, "sdxl": 5.14}  # 16-bit
TEXT_ENCODERS_GB = {"sd1": 0.25, "sd2": 0.68, "sdxl": 1.64}  # 16-bit, nothing where cached
UNET_LORA_PER_DIM = {"sd1": 13.57e6 / 32, "sd2": 13.9e6 / 32, "sdxl": 85.11e6 / 32}
TEXT_LORA_PER_DIM = {"sd1": 5.31e6 / 32, "sd2": 14.2e6 / 32, "sdxl": 28.9e6 / 32}
ADAMW_BYTES, ADAMW_8BIT_BYTES = 16, 10  # weight, gradient, two moments
ACTIVATIONS_GB = {"sd1": (1.25, 512), "sd2": (1.25, 512), "sdxl": (8.47, 1024)}  # at this side
CHECKPOINTED_GB = {"sd1": 0.50, "sd2": 0.50, "sdxl": 0.94}  # at the same side
FRAGMENTATION = 1.1  # without checkpointing, measured slopes are 7 to 10 % above the count


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is trained, apart from the batch. `pixels` is the area of the training resolution."""

    family: Family
    pixels: int
    network_dim: int
    text_encoder_trained: bool
    eight_bit: bool
    full_precision: bool = False


def needed_gb(load: Load, *, batch_size: int, gradient_checkpointing: bool) -> float:
    """Peak memory in GB."""
    lora = UNET_LORA_PER_DIM[load.family] * load.network_dim
    if load.text_encoder_trained:
        lora += TEXT_LORA_PER_DIM[load.family] * load.network_dim
    width = 2 if load.full_precision else 1
    weights = UNET_GB[load.family] * width
    if load.text_encoder_trained:
        weights += TEXT_ENCODERS_GB[load.family] * width
    per_parameter = ADAMW_8BIT_BYTES if load.eight_bit else ADAMW_BYTES
    activations = _per_image(load, gradient_checkpointing=gradient_checkpointing) * width
    fixed = CONTEXT_GB + RESERVE_GB + weights + lora * per_parameter / 1e9
    return fixed + activations * batch_size


def largest_batch(load: Load, *, free_gb: float, gradient_checkpointing: bool) -> int:
    """The largest batch that fits in `free_gb`; 0 where not even one image does."""
    none = needed_gb(load, batch_size=0, gradient_checkpointing=gradient_checkpointing)
    per_image = needed_gb(load, batch_size=1, gradient_checkpointing=gradient_checkpointing) - none
    return max(0, int((free_gb - none) / per_image))


def _per_image(load: Load, *, gradient_checkpointing: bool) -> float:
    full, side = ACTIVATIONS_GB[load.family]
    share = load.pixels / side**2  # about linear in pixels
    if gradient_checkpointing:
        return CHECKPOINTED_GB[load.family] * share
    return full * FRAGMENTATION * share
