"""A run on one card at one provider: what it would be there, and what it costs."""

from dataclasses import dataclass
from typing import Any

from tenner.core.messages import NO_TEXT, Message
from tenner.hardware.prices import Price, cost_usd
from tenner.planning.length import FEWEST_UPDATES

TEN_DOLLARS = 10.0
"""What a LoRA should cost less than."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One card at one provider.

    Where it does not fit, `why_not` is the reason, `fix` what helps, and the rest is empty.
    """

    card: str
    memory_gb: int
    provider: str = ""
    price: Price | None = None
    batch_size: int = 0
    gradient_checkpointing: bool = False
    checkpointed_blocks: int | None = None
    """Of the U-Net, with gradient checkpointing; None is all."""
    accumulation: int = 1
    num_steps: int = 0
    """Updates of the weights."""
    images_per_update: int = 0
    learning_rate: float = 0.0
    """The U-Net's."""
    image_passes: int = 0
    """Images seen in the whole run, each as often as it is."""
    unlike: tuple[str, ...] = ()
    """In what this is another training than the others: by its batch, by its images."""
    needed_gb: float = 0.0
    is_unsure: bool = False
    """The memory model is slightly against it."""
    seconds_per_step: float | None = None
    is_measured: bool = False
    """The time is scaled by measurements of this very card."""
    seconds: float | None = None
    half_base: bool = False
    """A transformer's weights are held in 8 bits."""
    blocks_to_swap: int = 0
    why_not: Message = NO_TEXT
    fix: Message = NO_TEXT

    @property
    def fits(self) -> bool:
        return not self.why_not

    @property
    def is_short(self) -> bool:
        """Whether the weights are moved too seldom."""
        return self.fits and self.num_steps < FEWEST_UPDATES

    @property
    def usd(self) -> float | None:
        if self.price is None or self.seconds is None:
            return None
        return cost_usd(self.seconds, self.price)

    @property
    def is_under_ten_dollars(self) -> bool | None:
        """None where the cost is not known."""
        return None if self.usd is None else self.usd < TEN_DOLLARS

    def to_json(self) -> dict[str, Any]:
        return {
            "card": self.card,
            "memory_gb": self.memory_gb,
            "provider": self.provider,
            "fits": self.fits,
            "why_not": self.why_not,
            "fix": self.fix,
            "batch_size": self.batch_size,
            "gradient_checkpointing": self.gradient_checkpointing,
            "checkpointed_blocks": self.checkpointed_blocks,
            "base_in_8_bits": self.half_base,
            "blocks_to_swap": self.blocks_to_swap,
            "gradient_accumulation_steps": self.accumulation,
            "num_steps": self.num_steps,
            "images_per_update": self.images_per_update,
            "learning_rate": self.learning_rate,
            "image_passes": self.image_passes,
            "unlike": list(self.unlike),
            "few_updates": self.is_short,
            "needed_gb": round(self.needed_gb, 2),
            "may_not_fit": self.is_unsure,
            "seconds_per_step": self.seconds_per_step and round(self.seconds_per_step, 4),
            "from_measurements_of_this_card": self.is_measured,
            "hours": self.seconds and round(self.seconds / 3600, 3),
            "usd_per_hour": self.price.usd_per_hour if self.price else None,
            "price_from": self.price.source if self.price else "",
            "usd": None if self.usd is None else round(self.usd, 3),
            "under_ten_dollars": self.is_under_ten_dollars,
        }
