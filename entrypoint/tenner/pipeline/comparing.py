"""`tenner plan --gpu NAME`: the same run on cards that are not here, sorted by what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenner.base.choice import MODELS_DIR
from tenner.base.model import FAMILY_NAMES, find_local_base
from tenner.base.tiny import base_dir
from tenner.core.errors import SettingsError, TennerError
from tenner.core.family import Family
from tenner.dataset import Dataset, inspect_dataset
from tenner.hardware.cards import Card, card_named, cards
from tenner.hardware.prices import GUIDE, Price, book_prices, cost_usd
from tenner.kohya.buckets import batches_per_epoch
from tenner.pipeline.preflight import dataset_request
from tenner.pipeline.start_files import with_start_files
from tenner.planning.expectation import expect, guide_seconds
from tenner.planning.family_defaults import with_family_defaults
from tenner.planning.length import run_length
from tenner.planning.plan import EngineName
from tenner.planning.shaping import Ground, Shaped, shape_run
from tenner.planning.sizing import CardMemory
from tenner.sample.cells import grid_cells
from tenner.settings import Request, Settings
from tenner.settings.known_bases import known_base

SHOWN_SHARE = 0.93
"""Of its nameplate a card shows 0.94 (with error correction) to 1.00; a desktop takes some more."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One card at one provider. Where it does not fit, `why_not` says so and the rest is empty."""

    card: str
    memory_gb: int
    provider: str = ""
    price: Price | None = None
    batch_size: int = 0
    gradient_checkpointing: bool = False
    accumulation: int = 1
    num_steps: int = 0
    needed_gb: float = 0.0
    is_unsure: bool = False
    """The memory model is slightly against it."""
    seconds_per_step: float | None = None
    is_measured: bool = False
    """The time is scaled by measurements of this very card."""
    seconds: float | None = None
    why_not: str = ""

    @property
    def fits(self) -> bool:
        return not self.why_not

    @property
    def usd(self) -> float | None:
        if self.price is None or self.seconds is None:
            return None
        return cost_usd(self.seconds, self.price)

    def to_json(self) -> dict[str, Any]:
        return {
            "card": self.card,
            "memory_gb": self.memory_gb,
            "provider": self.provider,
            "fits": self.fits,
            "why_not": self.why_not,
            "batch_size": self.batch_size,
            "gradient_checkpointing": self.gradient_checkpointing,
            "gradient_accumulation_steps": self.accumulation,
            "num_steps": self.num_steps,
            "needed_gb": round(self.needed_gb, 2),
            "may_not_fit": self.is_unsure,
            "seconds_per_step": self.seconds_per_step and round(self.seconds_per_step, 4),
            "from_measurements_of_this_card": self.is_measured,
            "hours": self.seconds and round(self.seconds / 3600, 3),
            "usd_per_hour": self.price.usd_per_hour if self.price else None,
            "price_from": self.price.source if self.price else "",
            "usd": None if self.usd is None else round(self.usd, 3),
        }


@dataclass(frozen=True, kw_only=True)
class Job:
    """The run that is compared. No card and no base need be here."""

    settings: Settings
    family: Family
    resolution: tuple[int, int]
    dataset: Dataset
    num_pictures: int

    @property
    def family_name(self) -> str:
        return FAMILY_NAMES[self.family]


def find_cards(names: Sequence[str]) -> tuple[Card, ...]:
    """The cards that are meant; `all` means every card with a price. Raises SettingsError."""
    if any(name.strip().lower() == "all" for name in names):
        return tuple(card for card in cards() if book_prices(card.name))
    found = {name: card_named(name) or card_named(f"RTX {name}") for name in names}
    unknown = [name for name, card in found.items() if card is None]
    if unknown:
        known = ", ".join(card.name for card in cards())
        raise SettingsError(
            f"no card is known by the name {', '.join(map(repr, unknown))}",
            fix=f"use one of {known}; or all",
        )
    return tuple(dict.fromkeys(card for card in found.values() if card))


def read_job(request: Request, environ: Mapping[str, str], workdir: Path) -> Job:
    """Dataset and family, on any machine. Raises TennerError where they cannot be known."""
    models_dir = Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR)
    base = find_local_base(request.settings.base_model, models_dir=models_dir, tiny_dir=base_dir())
    family, side = (base.family, base.resolution) if base else _family_of(request.settings)
    resolution = request.settings.resolution or (side, side)
    request = with_family_defaults(
        request, family, resolution, is_tiny=base is not None and base.is_tiny
    )
    request = with_start_files(request, base)
    settings = request.settings
    asked = dataset_request(request, family, resolution, environ)
    dataset = inspect_dataset(asked, workdir)
    captions = [image.caption for image in dataset.images if not image.is_reg]
    cells = () if settings.no_samples else grid_cells(settings, captions, dataset.trigger)
    return Job(
        settings=settings,
        family=family,
        resolution=resolution,
        dataset=dataset,
        num_pictures=len(cells),
    )


def _family_of(settings: Settings) -> tuple[Family, int]:
    """By the name of a base that is not here."""
    known = known_base(settings.base_model)
    if known:
        return known.family, 1024 if known.family == "sdxl" else 512
    raise SettingsError(
        f"base_model = '{settings.base_model}' is not here, so its family is not known",
        fix="say base_model = 'sd15' or 'sdxl' to compare cards",
    )


def compare(job: Job, found: Sequence[Card]) -> tuple[Offer, ...]:
    """Every card at every provider, cheapest first; then those without a price, then those that
    do not fit. Pure."""
    offers = [offer for card in found for offer in _offers(job, card)]
    return tuple(
        sorted(
            offers,
            key=lambda each: (
                not each.fits,
                each.usd is None,
                each.usd or 0.0,
                each.seconds or 0.0,
            ),
        )
    )


def _offers(job: Job, card: Card) -> list[Offer]:
    settings = job.settings
    try:
        shaped = shape_run(settings, _ground(job, card))
    except TennerError as error:
        why = str(error.problems[0].text)
        return [Offer(card=card.name, memory_gb=card.nameplate_gb, why_not=why)]
    if settings.price_per_hour is not None:
        own = Price(usd_per_hour=settings.price_per_hour, kind="asked", source="price_per_hour")
        return [_offer(job, card, shaped, own, "your price")]
    prices = [(price, price.provider) for price in book_prices(card.name)]
    found = [_offer(job, card, shaped, price, provider) for price, provider in prices]
    return found or [_offer(job, card, shaped, None, "")]


def _offer(job: Job, card: Card, shaped: Shaped, price: Price | None, provider: str) -> Offer:
    settings, batch = job.settings, shaped.batch
    assert shaped.load is not None
    batches = batches_per_epoch(job.dataset.images_by_bucket(), batch.batch_size)
    length = run_length(settings, batches, batch.accumulation)
    expected = expect(
        settings,
        shaped.load,
        batch,
        length,
        gpu_name=card.name,
        price=price,
        num_pictures=job.num_pictures,
    )
    seconds = expected.seconds if expected else None
    if provider == GUIDE:
        passes = job.dataset.num_image_passes * length.num_steps / length.steps_per_epoch
        is_sdxl = job.family == "sdxl"
        seconds = guide_seconds(card, num_passes=round(passes), is_sdxl=is_sdxl)
    return Offer(
        card=card.name,
        memory_gb=card.nameplate_gb,
        provider=provider,
        price=price,
        batch_size=batch.batch_size,
        gradient_checkpointing=batch.gradient_checkpointing,
        accumulation=batch.accumulation,
        num_steps=length.num_steps,
        needed_gb=batch.needed_gb or 0.0,
        is_unsure=batch.is_unsure,
        seconds_per_step=expected.step.seconds if expected else None,
        is_measured=bool(expected and expected.step.is_measured),
        seconds=seconds,
    )


def _ground(job: Job, card: Card) -> Ground:
    """The card as it would be found, in a usual container: 64 MiB of /dev/shm."""
    engine: EngineName = "native" if job.settings.engine == "native" else "sd-scripts"
    free_mib = int(card.nameplate_gb * 1024 * SHOWN_SHARE)
    return Ground(
        device="cuda",
        card=CardMemory(name=card.name, free_mib=free_mib),
        capability=card.capability,
        engine=engine,
        family=job.family,
        is_tiny=False,
        resolution=job.resolution,
        buckets=job.dataset.images_by_bucket(),
    )
