"""Facts of graphics cards by name: capability, memory, the guide's batch sizes."""

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
    guide_batch: tuple[int, int] | None = None


@cache
def cards() -> tuple[Card, ...]:
    """All known cards."""
    text = (resources.files("tenner.cards") / "cards.toml").read_text(encoding="utf-8")
    return tuple(_card(each) for each in tomllib.loads(text)["cards"])


def card_named(name: str) -> Card | None:
    """The card that nvidia-smi's `name` means; the longest known name in it wins, so that a
    laptop's card is not the desktop's. None for an unknown card."""
    words = _plain(name)
    found = [card for card in cards() if f" {_plain(card.name)} " in f" {words} "]
    return max(found, key=lambda card: len(card.name), default=None)


def _plain(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))


def _card(found: dict[str, Any]) -> Card:
    batch = found.get("guide_batch")
    return Card(
        name=found["name"],
        capability=(found["capability"][0], found["capability"][1]),
        nameplate_gb=found["nameplate_gb"],
        guide_batch=(batch[0], batch[1]) if batch else None,
    )
