"""What an hour costs and who says so: the user, the host, the dated book."""

import re
import tomllib
from importlib import resources

import pytest

from tenner.hardware.cards import card_named, cards
from tenner.hardware.prices import (
    GUIDE,
    Price,
    book_price,
    book_prices,
    cost_usd,
    price_of,
)

HOST = Price(usd_per_hour=0.61, kind="host", provider="RunPod", source="its API")


def test_the_users_word_goes_before_the_hosts_and_that_before_the_book() -> None:
    name = "NVIDIA GeForce RTX 4090"
    requested = price_of(set_by_user=0.5, host=HOST, gpu_name=name)
    assert requested is not None
    assert (requested.usd_per_hour, requested.kind) == (0.5, "set")
    assert price_of(set_by_user=None, host=HOST, gpu_name=name) == HOST
    book = price_of(set_by_user=None, gpu_name=name)
    assert book is not None
    assert not book.is_sure
    assert book.usd_per_hour == pytest.approx(0.525)  # of 0.34, 0.40, 0.65 and 0.74
    assert "Vast.ai $0.4" in book.source


def test_ones_own_machine_costs_nothing_and_an_unknown_card_has_no_price() -> None:
    free = price_of(set_by_user=0.0, gpu_name="NVIDIA GeForce RTX 3060")
    assert free is not None
    assert cost_usd(7200, free) == 0
    assert price_of(set_by_user=None, gpu_name="Something Else 9000") is None


def test_a_providers_own_price_is_taken_and_never_anothers() -> None:
    cheapest = book_price("RTX 4090", provider="RunPod")
    assert cheapest is not None
    assert (cheapest.provider, cheapest.usd_per_hour) == ("RunPod community", 0.34)
    assert book_price("RTX 3060", provider="Lambda") is None
    two = book_price("RTX 4090", provider="Vast", num_gpus=2)
    assert two is not None
    assert two.usd_per_hour == 0.80


def test_a100s_of_40_and_80_gb_have_their_own_prices() -> None:
    prices = [book_price(name, provider="Vast") for name in ("A100-40", "NVIDIA A100-SXM4-80GB")]
    assert [price.usd_per_hour for price in prices if price] == [0.76, 1.70]


@pytest.mark.parametrize(
    ("gpu", "usd"),
    [("RTX 3090", 0.50), ("RTX 4090", 0.70), ("RTX A6000", 0.80), ("A100-40", 1.50)],
)
def test_the_guides_prices_are_in_the_book(gpu: str, usd: float) -> None:
    guide = [price for price in book_prices(gpu) if price.provider == GUIDE]
    assert [price.usd_per_hour for price in guide] == [usd]


def test_every_row_names_a_known_card_a_price_and_a_source() -> None:
    rows = [price for card in cards() for price in book_prices(card.name)]
    assert len(rows) > 20
    assert all(0.05 < price.usd_per_hour < 10 and price.source for price in rows)
    text = (resources.files("tenner.hardware.cards") / "prices.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    listed = [name for provider in tables.values() for name in provider]
    assert len(rows) == sum(card_named(name) is not None for name in listed)
    assert {name for name in listed if card_named(name) is None} <= {"source", *tables["sources"]}
    assert len({card.name for card in cards()}) == len(cards())
    for card in cards():
        for name in (card.name, *card.other_names):
            assert card_named(name) == card


def test_every_source_of_a_price_has_its_date_or_says_that_it_has_none() -> None:
    text = (resources.files("tenner.hardware.cards") / "prices.toml").read_text(encoding="utf-8")
    sources = {**tomllib.loads(text)["sources"]}
    assert sources.pop("guide")
    assert sources.pop("guide_range")
    for name, source in sources.items():
        assert re.search(r"\b20\d\d-\d\d|date not known", source), name


def test_the_two_boards_of_an_h100_have_their_own_prices() -> None:
    boards = [
        book_price(name, provider=provider)
        for provider in ("Lambda", "RunPod", "RunPod secure")
        for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe")
    ]
    assert [price.usd_per_hour for price in boards if price] == [
        *(4.29, 3.29),
        *(2.69, 1.99),
        *(3.99, 2.89),
    ]


def test_seconds_cost_their_share_of_an_hour() -> None:
    assert cost_usd(1800, HOST) == pytest.approx(0.305)
