"""Every shipped preset, planned on cards of 8 to 80 GB."""

from pathlib import Path

import pytest

from tenner.hardware.cards import card_named
from tenner.pipeline.comparing import Job, compare, read_job
from tenner.settings import load_request
from tests.hardware.program import photos

PRESETS = sorted(path.stem for path in Path("configs/presets").glob("*.toml"))
CARDS = {
    8: "RTX 4060",
    12: "RTX 3060",
    16: "RTX A4000",
    24: "RTX A5000",
    40: "A100 40GB",
    80: "A100 80GB",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("photos"), 6, side=1024)


def job(preset: str, dataset: Path, workdir: Path) -> Job:
    flags = {"dataset": str(dataset)}
    request = load_request(flags, {}, preset=preset, read_default_config=False)
    return read_job(request, {"TENNER_MODELS_DIR": str(workdir)}, workdir / "view")


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "demo"])
def test_a_preset_fits_every_card_that_it_names(preset: str, dataset: Path, tmp_path: Path) -> None:
    planned = job(preset, dataset, tmp_path)
    cards = {gb: card_named(name) for gb, name in CARDS.items()}
    offers = {
        gb: next(iter(compare(planned, [card]).offers))
        for gb, card in cards.items()
        if card is not None
    }
    assert set(offers) == set(CARDS)
    sure = [gb for gb, offer in offers.items() if offer.fits and not offer.is_unsure]
    if planned.family == "sd1":
        assert sure == [8, 12, 16, 24, 40, 80]
    else:  # 8 GB are too few, or may be: the memory model is 10 % off at worst
        assert sure[-4:] == [16, 24, 40, 80]
        assert offers[12].fits
        assert offers[8].is_unsure or "one image needs" in offers[8].why_not
    for gb in sure:
        offer = offers[gb]
        assert offer.num_steps > 0
        assert offer.seconds is not None
        assert offer.needed_gb <= gb * 1.074 * 0.93
        assert offer.usd is None or offer.usd < 10
    assert (offers[40].batch_size, offers[40].gradient_checkpointing) == (
        (8, False) if planned.family == "sd1" else (4, True)
    )
    assert not offers[80].gradient_checkpointing
