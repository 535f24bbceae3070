"""What a batch is chosen from and by, and the choice: plain values."""

from dataclasses import dataclass
from typing import Literal

from tenner.hardware.cards import Card, card_named

HEADROOM = 0.92
"""Share of the free memory that is planned with: allocators fragment, other tensors come and go."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Something that was decided, and why, in one line."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CardMemory:
    """The card to size for. `free_mib` is None where the driver hides it."""

    name: str
    free_mib: int | None
    correction: float = 1.0
    """Measured over modelled memory of this very job on this card, where it was measured."""

    @property
    def free_gb(self) -> float:
        """1e9 bytes; all that is free."""
        return (self.free_mib or 0) * 2**20 / 1e9

    @property
    def usable_gb(self) -> float:
        """What is planned with, in the model's GB."""
        return self.free_gb * HEADROOM / self.correction

    @property
    def known(self) -> Card | None:
        return card_named(self.name)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The settings of the batch. `most_images` is what the largest bucket can fill."""

    batch_size: int | Literal["auto", "max"] = "auto"
    gradient_checkpointing: bool | None = None
    effective_batch_size: int | None = None
    """Images that move the weights once, over all processes: accumulation fills it up."""
    accumulation: int = 1
    most_images: int = 1
    num_processes: int = 1


@dataclass(frozen=True, kw_only=True)
class BatchChoice:
    """Images a step, and whether activations are recomputed. `needed_gb` is an estimate."""

    batch_size: int
    gradient_checkpointing: bool
    needed_gb: float | None
    reason: str
    why_checkpointing: str
    checkpointed_blocks: int | None = None
    """With gradient checkpointing: how many of the U-Net's blocks are recomputed; None is all."""
    accumulation: int = 1
    why_accumulation: str = ""
    is_unsure: bool = False
    """It fits within the model's error or not: to be measured, where a card is there."""
