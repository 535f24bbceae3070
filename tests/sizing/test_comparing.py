"""`tenner plan --gpu`: what a run takes on cards that are not here, through the real program."""

import json
from pathlib import Path
from typing import Any

import pytest

from tenner.core.errors import SettingsError
from tenner.pipeline.comparing import find_cards
from tests.hardware.program import photos as make_photos
from tests.hardware.program import tenner


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's job: 50 images, seen ten times in each of ten epochs."""
    return make_photos(tmp_path_factory.mktemp("photos"), num_images=50)


def offers(photos: Path, cwd: Path, *words: str) -> list[dict[str, Any]]:
    done = tenner("plan", str(photos), "--json", *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["offers"]


def test_the_guides_cost_table_comes_out_to_the_cent(photos: Path, tmp_path: Path) -> None:
    words = [word for gpu in ("RTX 3090", "4090", "A6000", "A100-40") for word in ("--gpu", gpu)]
    guide = {
        row["card"]: (row["hours"], row["usd_per_hour"], row["usd"])
        for row in offers(photos, tmp_path, "--base_model", "sd15", *words)
        if row["provider"] == "guide"
    }
    assert guide == {
        "RTX 3090": (2.5, 0.50, 1.25),
        "RTX 4090": (1.5, 0.70, 1.05),
        "RTX A6000": (1.5, 0.80, 1.20),
        "A100 40GB": (1.0, 1.50, 1.50),
    }


def test_cards_and_providers_are_sorted_by_cost(photos: Path, tmp_path: Path) -> None:
    found = offers(photos, tmp_path, "--base_model", "sdxl", "--gpu", "all")
    costs = [row["usd"] for row in found if row["fits"] and row["usd"] is not None]
    assert len(costs) > 20
    assert costs == sorted(costs)
    assert all(cost < 10 for cost in costs)
    priced = [row["usd"] is not None for row in found if row["fits"]]
    assert priced == sorted(priced, reverse=True), "those without a price come last"
    batches = {row["card"]: row["batch_size"] for row in found}
    assert (batches["RTX 4090"], batches["RTX 3090"], batches["A100 40GB"]) == (2, 1, 4)
    assert {row["provider"] for row in found} >= {"Vast.ai", "RunPod secure", "guide", "GPUFlow"}
    assert all(row["price_from"] for row in found if row["usd_per_hour"] is not None)
    by_card: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        by_card.setdefault(row["card"], []).append(row)
    memory = {"RTX 5080": 16, "RTX PRO 6000": 96, "B200": 180, "L40S": 48, "GH200": 96, "A10": 24}
    assert {card: by_card[card][0]["memory_gb"] for card in memory} == memory
    runpod = {"RunPod community", "RunPod secure"}
    assert {row["provider"] for row in by_card["B200"]} == {*runpod, "Vast.ai", "Lambda"}
    (unpriced,) = by_card["RTX 5080"]
    assert (unpriced["usd_per_hour"], unpriced["usd"], unpriced["provider"]) == (None, None, "")
    assert unpriced["hours"] > 0
    assert not [card for card in by_card if "Laptop" in card]


def test_a_table_for_people_names_what_does_not_fit(photos: Path, tmp_path: Path) -> None:
    words = ("--base_model", "sdxl", "--network_dim", "256", "--gpu", "4060", "--gpu", "RTX 4090")
    done = tenner("plan", str(photos), *words, "--price_per_hour", "0.5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "Stable Diffusion XL at 1024×1024, 50 images" in lines[0]
    row = next(line for line in lines if line.startswith("RTX 4090 (24 GB)"))
    assert "your price" in row
    assert "2g" in row  # the text encoders of SDXL are left alone by default
    assert any(line.startswith("RTX 4060 does not fit: one image needs") for line in lines)


def test_a_name_may_hold_several_cards_between_commas() -> None:
    apart = find_cards(["RTX 3060", "4070", "A100-40"])
    assert [card.name for card in apart] == ["RTX 3060", "RTX 4070", "A100 40GB"]
    assert find_cards(["RTX 3060,4070 ,", "A100-40"]) == apart
    with pytest.raises(SettingsError, match="'Voodoo 2'"):
        find_cards(["RTX 3060, Voodoo 2"])


def test_an_unknown_card_or_family_is_refused_with_what_is_known(
    photos: Path, tmp_path: Path
) -> None:
    done = tenner("plan", str(photos), "--gpu", "Voodoo 2", cwd=tmp_path)
    assert done.returncode == 2
    assert "no card is known by the name 'Voodoo 2'" in done.stderr
    assert "A100 40GB" in done.stderr
    words = ("--base_model", "./mine.safetensors", "--gpu", "all")
    done = tenner("plan", str(photos), *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no base model at ./mine.safetensors" in done.stderr


def test_the_tiny_base_which_a_cpu_trains_is_refused(photos: Path, tmp_path: Path) -> None:
    words = ("plan", str(photos), "--base_model", "tiny", "--resolution", "64", "--gpu", "RTX 4090")
    done = tenner(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "the built-in tiny base has no time or cost on a card" in done.stderr
