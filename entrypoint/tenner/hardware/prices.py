"""What a run costs: the price of an hour, and dollars for time or steps.

The user's `price_per_hour` has priority over the host's API, and that over the price table: prices
change, so the table's is an estimate, and never a reason to stop a run.
"""

import statistics
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from tenner.core.messages import msg
from tenner.hardware.cards import card_named

PriceSource = Literal["set", "host", "book"]
"""Set by the user, from the host's API, or from the price table: the values of `plan.json`."""
GUIDE = "guide"
"""The provider of the guide's own prices in the table."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """Dollars for one hour of a machine, and the source of that price."""

    usd_per_hour: float
    kind: PriceSource
    provider: str = ""
    source: str = ""
    """The source of the figure with its date, so that the user can check it."""

    @property
    def is_sure(self) -> bool:
        """Given by the user or the host, not looked up in the price table."""
        return self.kind != "book"


def price_of(
    *,
    set_by_user: float | None,
    host: Price | None = None,
    gpu_name: str = "",
    provider: str = "",
    num_gpus: int = 1,
) -> Price | None:
    """The price to calculate with: the user's, the host's, else the table's for the card.

    `set_by_user` and `host` are for the whole machine, prices of the table for one card. None where
    there is none. 0 is a price too, of the user's own machine.
    """
    if set_by_user is not None:
        return Price(usd_per_hour=set_by_user, kind="set", source=msg("price_per_hour"))
    return host or book_price(gpu_name, provider=provider, num_gpus=num_gpus)


def book_price(gpu_name: str, *, provider: str = "", num_gpus: int = 1) -> Price | None:
    """The provider's price (its cheapest row, where `provider` starts several names), or the middle
    of all providers' without one. None for a card that is not in the book."""
    found = [each for each in book_prices(gpu_name) if each.provider != GUIDE]
    of_provider = [each for each in found if provider and _starts(each.provider, provider)]
    if of_provider:
        first = of_provider[0]
        usd, source = first.usd_per_hour, first.source
        return Price(
            usd_per_hour=usd * num_gpus, kind="book", provider=first.provider, source=source
        )
    if provider or not found:
        return None
    middle = statistics.median(each.usd_per_hour for each in found)
    named = ", ".join(f"{each.provider} ${each.usd_per_hour:g}" for each in found)
    return Price(
        usd_per_hour=middle * num_gpus,
        kind="book",
        source=msg("the middle of {named}", named=named),
    )


def book_prices(gpu_name: str) -> tuple[Price, ...]:
    """Every provider's price for one such card, cheapest first, the guide's among them."""
    card = card_named(gpu_name)
    if card is None:
        return ()
    found = [price for name, price in _book() if name == card.name]
    return tuple(sorted(found, key=lambda each: each.usd_per_hour))


def cost_usd(seconds: float, price: Price) -> float:
    """Dollars for so many seconds: hosts bill by the second or minute."""
    return seconds / 3600 * price.usd_per_hour


@cache
def _book() -> tuple[tuple[str, Price], ...]:
    """(card's name, price) for every row of the book."""
    text = (resources.files("tenner.hardware.cards") / "prices.toml").read_text(encoding="utf-8")
    read = tomllib.loads(text)
    sources = read.pop("sources")
    rows: list[tuple[str, Price]] = []
    for provider, table in read.items():
        usual: str = table.pop("source", provider)
        for card, row in table.items():
            usd, source = (row, usual) if isinstance(row, float) else (row["usd"], row["source"])
            price = Price(usd_per_hour=usd, kind="book", provider=provider, source=sources[source])
            rows.append((card, price))
    return tuple(rows)


def _starts(name: str, provider: str) -> bool:
    return name.lower().startswith(provider.lower())
