"""Facts of graphics cards by name: capability, memory, peak, the guide's batch sizes and hours."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card as its maker and the guide describe it. `guide_batch` is for SD 1.5 and SDXL."""

    name: str
    capability: tuple[int, int]
    nameplate_gb: int
    other_names: tuple[str, ...] = ()
    peak_tflops: float | None = None
    """Dense 16-bit matrix products with 32-bit sums, in 1e12 operations a second."""
    rented: bool = True
    """Whether RunPod, Vast.ai or Lambda rent it out."""
    guide_batch: tuple[int, int] | None = None
    guide_hours: float | None = None
    """The guide's hours for SD 1.5: 50 images, 10 repeats, 10 epochs."""

    @property
    def free_mib(self) -> int:
        """What is free before a run. Of its nameplate a card shows 0.94 (with error correction) to
        1.00; a desktop takes some more."""
        return int(self.nameplate_gb * 1024 * 0.93)


@cache
def cards() -> tuple[Card, ...]:
    """All known cards."""
    text = (resources.files("tenner.hardware.cards") / "cards.toml").read_text(encoding="utf-8")
    return tuple(_card(each) for each in tomllib.loads(text)["cards"])


@cache
def card_named(name: str) -> Card | None:
    """The card that `name` means, nvidia-smi's or a user's; the longest known name in it
    wins, so that a laptop's card is not the desktop's. None for an unknown card."""
    whole = f" {_plain(name)} "
    found = [
        (len(_plain(known)), card)
        for card in cards()
        for known in (card.name, *card.other_names)
        if f" {_plain(known)} " in whole
    ]
    return max(found, key=lambda each: each[0])[1] if found else None


def _plain(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))


def _card(found: dict[str, Any]) -> Card:
    batch = found.get("guide_batch")
    return Card(
        name=found["name"],
        capability=(found["capability"][0], found["capability"][1]),
        nameplate_gb=found["nameplate_gb"],
        other_names=tuple(found.get("other_names", ())),
        peak_tflops=found.get("peak_tflops"),
        rented=found.get("rented", True),
        guide_batch=(batch[0], batch[1]) if batch else None,
        guide_hours=found.get("guide_hours"),
    )
