"""`tenner plan --gpu NAME`: the same run on cards that are not here, sorted by what it costs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tenner.base.choice import MODELS_DIR
from tenner.base.local import not_found
from tenner.core.errors import Problem, SettingsError, TennerError, errors_in
from tenner.core.family import Family
from tenner.core.messages import NO_TEXT, msg
from tenner.dataset import Dataset, DatasetRequest, inspect_dataset
from tenner.families import FAMILIES
from tenner.hardware.cards import Card, card_named, cards
from tenner.hardware.prices import GUIDE, Price, book_prices
from tenner.kohya.buckets import batches_per_epoch
from tenner.pipeline.everything_wrong import most_urgent
from tenner.pipeline.offer import Offer
from tenner.pipeline.preflight import dataset_request
from tenner.pipeline.run_captions import expected_drafting_seconds
from tenner.pipeline.without_card import Judged, ground_of, judge_shape, judge_without_card
from tenner.planning.expectation import expect, guide_seconds
from tenner.planning.learning_rate import rates_for
from tenner.planning.length import FEWEST_UPDATES, run_length
from tenner.planning.shaping import Shaped, shape_run
from tenner.sample.cells import grid_cells
from tenner.settings import Request, Settings
from tenner.settings.known_bases import known_base


@dataclass(frozen=True, kw_only=True)
class Job:
    """The run that is compared. No card and no base need be here."""

    judged: Judged
    dataset: Dataset
    num_pictures: int
    drafting_seconds: float = 0.0

    @property
    def settings(self) -> Settings:
        return self.judged.request.settings

    @property
    def family(self) -> Family:
        return self.judged.assumed.family

    @property
    def resolution(self) -> tuple[int, int]:
        return self.judged.assumed.resolution


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The offers, and what is to be reported of the job on any of the cards. `resolution` is width
    and height, in pixels."""

    family: Family
    resolution: tuple[int, int]
    num_images: int
    offers: tuple[Offer, ...]
    notices: tuple[Problem, ...]


RENTED_CPUS = 8
"""Cores that a rented machine is assumed to have."""


def find_cards(names: Sequence[str]) -> tuple[Card, ...]:
    """The cards that are meant; a name may hold several, between commas, and `all` are those that
    RunPod, Vast.ai or Lambda rent. Raises SettingsError."""
    names = [each.strip() for name in names for each in name.split(",") if each.strip()] or names
    if any(name.lower() == "all" for name in names):
        return tuple(card for card in cards() if card.rented)
    found = {name: card_named(name) or card_named(f"RTX {name}") for name in names}
    unknown = [name for name, card in found.items() if card is None]
    if unknown:
        known = ", ".join(card.name for card in cards())
        raise SettingsError(
            msg("no card is known by the name {map}", map=", ".join(map(repr, unknown))),
            fix=msg("use one of {known}; or all", known=known),
        )
    return tuple(dict.fromkeys(card for card in found.values() if card))


def read_job(
    request: Request,
    environ: Mapping[str, str],
    workdir: Path,
    inspect: Callable[[DatasetRequest, Path], Dataset] = inspect_dataset,
) -> Job:
    """Settings, dataset and family, judged as on any machine. Raises TennerError with all that is
    wrong with them, or where the family cannot be known."""
    judged = judge_without_card(request, environ, machine=None, heads_into=workdir / "base")
    wrong: list[TennerError] = []
    if errors := errors_in(judged.problems):
        wrong.append(SettingsError(problems=errors))
    elif judged.base is None:
        _require_family(request.settings, environ)
    family, resolution = judged.assumed.family, judged.assumed.resolution
    needed = dataset_request(judged.request, family, resolution, environ)
    needed = replace(needed, decodes=False)
    try:
        dataset = inspect(needed, workdir)
    except TennerError as error:
        raise most_urgent([*wrong, error]) from error
    if wrong:
        raise most_urgent(wrong)
    settings = judged.request.settings
    captions = [image.caption for image in dataset.images if not image.is_reg]
    cells = () if settings.no_samples else grid_cells(settings, captions, dataset.trigger)
    drafting_seconds = expected_drafting_seconds(
        settings, dataset.findings, has_card=True, num_cpus=RENTED_CPUS
    )
    return Job(
        judged=judged,
        dataset=dataset,
        num_pictures=len(cells),
        drafting_seconds=drafting_seconds,
    )


def _require_family(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raises SettingsError where a base that is not here has no name that gives its family."""
    if not known_base(settings.base_model):
        raise not_found(settings.base_model, Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR))


def compare(job: Job, found: Sequence[Card]) -> Comparison:
    """Every card at every provider, cheapest first; then those without a price, then those that
    do not fit. Pure. Raises SettingsError where the job is refused on each of the cards."""
    tried = [_tried(job, card) for card in found]
    same = [each for each in tried[0].problems if all(each in one.problems for one in tried)]
    if errors := errors_in(same):
        raise SettingsError(problems=errors)
    if any(each.shaped is not None and each.shaped.load is None for each in tried):
        raise SettingsError(
            msg("the built-in tiny base has no time or cost on a card: it is trained on a CPU"),
            fix=msg("set base_model = 'sd15' or 'sdxl' to compare cards"),
        )
    offers = tuple(
        sorted(
            _marked(job, [offer for each in tried for offer in _offers(job, each)]),
            key=lambda each: (
                not each.fits,
                each.usd is None,
                each.usd or 0.0,
                each.seconds or 0.0,
            ),
        )
    )
    notices = (*job.judged.problems, *job.dataset.problems, *same, *_about(job, offers))
    return Comparison(
        family=job.family,
        resolution=job.resolution,
        num_images=job.dataset.num_images,
        offers=offers,
        notices=tuple(dict.fromkeys(notices)),
    )


def _marked(job: Job, offers: Sequence[Offer]) -> list[Offer]:
    """The offers with what makes them unlike the most of them: other images seen, or another batch
    at the same learning rate."""
    fit = [each for each in offers if each.fits]
    if not fit:
        return list(offers)
    scales = job.settings.scale_lr != "none"
    batch = _usual([each.images_per_update for each in fit], job.settings.lr_batch_size)
    passes = _usual([each.image_passes for each in fit], None)

    def unlike(offer: Offer) -> tuple[str, ...]:
        if not offer.fits:
            return ()
        other_batch = not scales and offer.images_per_update != batch
        other_images = abs(offer.image_passes - passes) > SAME_SHARE * passes
        return ("batch",) * other_batch + ("images",) * other_images

    return [replace(each, unlike=unlike(each)) for each in offers]


SAME_SHARE = 0.02
"""Images seen may differ by this share: the last batch of a bucket is not always full."""


def _usual(values: Sequence[int], preferred: int | None) -> int:
    """The preferred one where it is there, else the most frequent, the smaller of two."""
    if preferred is not None and preferred in values:
        return preferred
    counts = Counter(values)
    return min(counts, key=lambda each: (-counts[each], each))


def _about(job: Job, offers: Sequence[Offer]) -> list[Problem]:
    """What is to be reported of the comparison itself."""
    found: list[Problem] = []
    marks = {mark for each in offers for mark in each.unlike}
    if "batch" in marks:
        text = msg(
            "not the same training on all cards: at other numbers of images to an update the"
            " learning rate stays {rate}",
            rate=f"{next(each.learning_rate for each in offers if each.fits):g}",
        )
        alike = job.settings.lr_batch_size
        fix = msg(
            'scale_lr = "sqrt" scales the rate by the batch, effective_batch_size = {alike} gives'
            " every card the same by accumulation",
            alike=alike,
        )
        found.append(Problem(text=text, fix=fix, level="warning"))
    if "images" in marks:
        text = msg(
            "not the same training on all cards: a number of steps sees more images where"
            " the batch is larger"
        )
        fix = msg("set max_train_epochs in place of max_train_steps to see as many on each")
        found.append(Problem(text=text, fix=fix, level="warning"))
    short = list(dict.fromkeys(each.card for each in offers if each.is_short))
    if short:
        text = msg(
            "few updates of the weights, under {fewest}, on {cards}",
            fewest=FEWEST_UPDATES,
            cards=", ".join(short),
        )
        fix = msg("raise max_train_epochs, or set a smaller effective_batch_size")
        found.append(Problem(text=text, fix=fix, level="warning"))
    return found


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """The job on a card: its shape, or why it cannot be had there."""

    card: Card
    shaped: Shaped | None = None
    problems: tuple[Problem, ...] = ()
    why_not: Problem | None = None


def _tried(job: Job, card: Card) -> _Tried:
    ground = ground_of(job.judged, card, job.dataset.images_by_bucket())
    try:
        shaped = shape_run(job.settings, ground)
    except TennerError as error:
        is_of_settings = isinstance(error, SettingsError)
        problems = error.problems if is_of_settings else ()
        return _Tried(card=card, problems=problems, why_not=error.problems[0])
    problems = judge_shape(job.judged, ground, shaped=shaped)
    errors = errors_in(problems)
    why_not = errors[0] if errors else None
    return _Tried(card=card, shaped=shaped, problems=problems, why_not=why_not)


def _offers(job: Job, tried: _Tried) -> list[Offer]:
    settings, card, shaped = job.settings, tried.card, tried.shaped
    if shaped is None or tried.why_not:
        why = tried.why_not or Problem(text=NO_TEXT)
        return [Offer(card=card.name, memory_gb=card.nameplate_gb, why_not=why.text, fix=why.fix)]
    if settings.price_per_hour is not None:
        own = Price(usd_per_hour=settings.price_per_hour, kind="set", source=msg("price_per_hour"))
        return [_offer(job, card, shaped, own, "your price")]
    is_of_the_guide = FAMILIES[job.family].transformer is None
    prices = [
        (price, price.provider)
        for price in book_prices(card.name)
        if is_of_the_guide or price.provider != GUIDE
    ]
    offers = [_offer(job, card, shaped, price, provider) for price, provider in prices]
    return offers or [_offer(job, card, shaped, None, "")]


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
        drafting_seconds=job.drafting_seconds,
    )
    seconds = expected.seconds if expected else None
    passes = round(job.dataset.num_image_passes * length.num_steps / length.steps_per_epoch)
    images = shaped.shape.images_per_update(settings.num_processes)
    if provider == GUIDE:
        is_sdxl = job.family == "sdxl"
        seconds = guide_seconds(card, num_passes=passes, is_sdxl=is_sdxl)
    return Offer(
        card=card.name,
        memory_gb=card.nameplate_gb,
        provider=provider,
        price=price,
        batch_size=batch.batch_size,
        gradient_checkpointing=batch.gradient_checkpointing,
        checkpointed_blocks=batch.checkpointed_blocks,
        accumulation=batch.accumulation,
        num_steps=length.num_steps,
        images_per_update=images,
        learning_rate=rates_for(settings, images).unet_lr,
        image_passes=passes,
        needed_gb=batch.needed_gb or 0.0,
        is_unsure=batch.is_unsure,
        seconds_per_step=expected.step.seconds if expected else None,
        is_measured=bool(expected and expected.step.is_measured),
        seconds=seconds,
        half_base=shaped.load.half_base,
        blocks_to_swap=shaped.load.blocks_to_swap,
    )
