"""How a card is used: batch and gradient checkpointing (one decision), precision, workers.

Pure: what the card and the user say in, a choice with its reason out.
"""

from dataclasses import dataclass
from typing import Literal

from tenner.cards import card_named
from tenner.errors import MachineError, SettingsError
from tenner.vram import Load, largest_batch, needed_gb

Precision = Literal["no", "fp16", "bf16"]
HEADROOM = 0.92
"""Share of the free memory that is planned with: allocators fragment, other tensors come and go."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Something that was decided, and why, in one line."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class BatchChoice:
    """Images a step, and whether activations are recomputed. `needed_gb` is the model's word."""

    batch_size: int
    gradient_checkpointing: bool
    needed_gb: float | None
    reason: str


def choose_batch(
    load: Load,
    *,
    gpu_name: str,
    free_mib: int | None,
    wanted: int | Literal["auto", "max"],
    checkpointing: bool | None,
    most_images: int,
) -> BatchChoice:
    """Batch and checkpointing for a card. `most_images` is what the largest bucket can fill.

    Raises MachineError where not even one image fits with every saving on.
    """
    if free_mib is None:
        size = wanted if isinstance(wanted, int) else 1
        reason = "the card does not tell its memory: the least that can run"
        return BatchChoice(
            batch_size=size, gradient_checkpointing=True, needed_gb=None, reason=reason
        )
    free_gb = free_mib * 2**20 / 1e9 * HEADROOM
    if isinstance(wanted, int):
        return _as_asked(load, wanted, free_gb, checkpointing)
    guide = card_named(gpu_name)
    if wanted == "auto" and guide and guide.guide_batch and load.family in ("sd1", "sdxl"):
        size = min(guide.guide_batch[load.family == "sdxl"], most_images)
        choice = _as_asked(load, size, free_gb, checkpointing)
        if choice.needed_gb is not None and choice.needed_gb <= free_gb:
            reason = f"the guide's batch for {guide.name}; {choice.reason}"
            return BatchChoice(
                batch_size=size,
                gradient_checkpointing=choice.gradient_checkpointing,
                needed_gb=choice.needed_gb,
                reason=reason,
            )
    return _fill(load, free_gb, checkpointing, most_images, fill=wanted == "max")


def choose_precision(
    asked: Precision | None, *, capability: tuple[int, int] | None, gpu_name: str
) -> tuple[Precision, str]:
    """bf16 where the card computes it (8.0 and later), else fp16; the CPU takes float32.

    Raises SettingsError for bf16 on a card without it.
    """
    if capability is None and not gpu_name:
        return "no", "the CPU computes in float32"
    has_bf16 = capability is not None and capability >= (8, 0)
    if asked == "bf16" and not has_bf16:
        raise SettingsError(
            f"mixed_precision = 'bf16', but {gpu_name} has no bf16",
            fix="set mixed_precision = 'fp16', or leave it out",
        )
    if asked is not None:
        return asked, "as asked"
    return ("bf16", "the card has it") if has_bf16 else ("fp16", "the card has no bf16")


def _as_asked(load: Load, size: int, free_gb: float, checkpointing: bool | None) -> BatchChoice:
    """The user's (or guide's) batch: without checkpointing where it fits, as that is faster."""
    plain = needed_gb(load, batch_size=size, gradient_checkpointing=False)
    recompute = plain > free_gb if checkpointing is None else checkpointing
    needed = needed_gb(load, batch_size=size, gradient_checkpointing=recompute)
    why = "needs" if needed <= free_gb else "may not fit: needs"
    reason = f"{why} {needed:.1f} of {free_gb:.1f} GB"
    if recompute:
        reason += f" with gradient checkpointing ({plain:.1f} without)"
    return BatchChoice(
        batch_size=size, gradient_checkpointing=recompute, needed_gb=needed, reason=reason
    )


def _fill(
    load: Load, free_gb: float, checkpointing: bool | None, most_images: int, *, fill: bool
) -> BatchChoice:
    """The largest batch that fits. Without checkpointing where at least two images do (it costs
    about a third more time, and small batches leave a card waiting for launches)."""
    plain = largest_batch(load, free_gb=free_gb, gradient_checkpointing=False)
    saving = largest_batch(load, free_gb=free_gb, gradient_checkpointing=True)
    recompute = plain < 2 and saving > plain if checkpointing is None else checkpointing
    fits = saving if recompute else plain
    if fits < 1:
        least = needed_gb(load, batch_size=1, gradient_checkpointing=True)
        raise MachineError(
            f"one image needs {least:.1f} GB even with gradient checkpointing;"
            f" {free_gb:.1f} GB can be used here",
            fix=f"rent a card with {least / HEADROOM:.0f} GB or more, lower network_dim or"
            " resolution, or set network_train_unet_only = true",
        )
    size = max(1, min(fits, most_images, fits if fill else 8))
    needed = needed_gb(load, batch_size=size, gradient_checkpointing=recompute)
    reason = f"up to {fits} fit; needs {needed:.1f} of {free_gb:.1f} GB"
    return BatchChoice(
        batch_size=size, gradient_checkpointing=recompute, needed_gb=needed, reason=reason
    )
