"""What a run is expected to take, in hours and dollars, before it starts.

Pure. The time model gives the step, the plan its number, the price its dollars; the error that the
model is known for is carried along, so that a limit is judged fairly.
"""

from dataclasses import dataclass
from typing import Any

from tenner.core.errors import Problem
from tenner.core.messages import joined, msg
from tenner.hardware.cards import Card
from tenner.hardware.prices import Price, cost_usd
from tenner.planning.batch_choice import BatchChoice, Choice
from tenner.planning.length import FEWEST_UPDATES, Length
from tenner.planning.speed import DENOISER, StepTime, drawn_from, picture_seconds, step_time
from tenner.planning.vram import Load
from tenner.sample.placement import Placement
from tenner.settings.model import Settings
from tenner.ui.lines import duration

GUIDE_PASSES = 5000
"""The guide's job: 50 images, 10 repeats (its folder's name), 10 epochs."""
GUIDE_SDXL = 1.75
"""Its factor for SDXL, the middle of 1.5 to 2."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Time and cost of a run on a card, without renting, downloading and delivering."""

    step: StepTime
    num_steps: int
    pictures_seconds: float
    price: Price | None
    placement: Placement | None = None
    """Where a transformer lies while the card draws."""
    drafting_seconds: float = 0.0
    """Drafting the captions that are missing, without the download of the model; an estimate."""

    @property
    def training_seconds(self) -> float:
        return self.step.seconds * self.num_steps

    @property
    def seconds(self) -> float:
        """Drafting captions, training and drawing."""
        return self.drafting_seconds + self.training_seconds + self.pictures_seconds

    @property
    def usd(self) -> float | None:
        return cost_usd(self.seconds, self.price) if self.price else None

    def to_json(self) -> dict[str, Any]:
        price = self.price
        return {
            "seconds_per_step": round(self.step.seconds, 4),
            "from_measurements_of_this_card": self.step.is_measured,
            "source": self.step.source,
            "training_seconds": round(self.training_seconds),
            "samples_seconds": round(self.pictures_seconds),
            "captions_seconds": round(self.drafting_seconds),
            "seconds": round(self.seconds),
            "error_share": self.step.error,
            "usd_per_hour": price.usd_per_hour if price else None,
            "price_from": price.source if price else None,
            "price_kind": price.kind if price else None,
            "usd": None if self.usd is None else round(self.usd, 3),
        }


def expect(
    settings: Settings,
    load: Load,
    batch: BatchChoice,
    length: Length,
    *,
    gpu_name: str,
    price: Price | None,
    num_pictures: int,
    drafting_seconds: float = 0.0,
) -> Expected | None:
    """None where the card's speed is not known."""
    step = step_time(
        load,
        gpu_name=gpu_name,
        batch_size=batch.batch_size,
        gradient_checkpointing=batch.gradient_checkpointing,
        checkpointed_blocks=batch.checkpointed_blocks,
        accumulation=batch.accumulation,
    )
    if step is None:
        return None
    placement = drawn_from(load.family, gpu_name)
    picture = picture_seconds(
        load.family,
        pixels=load.pixels,
        gpu_name=gpu_name,
        num_steps=settings.sample_steps,
        is_streamed=bool(placement and DENOISER in placement.streamed),
    )
    return Expected(
        step=step,
        num_steps=length.num_steps,
        pictures_seconds=(picture or 0.0) * num_pictures,
        placement=placement if num_pictures else None,
        price=price,
        drafting_seconds=drafting_seconds,
    )


def _drawing(placement: Placement | None) -> tuple[Choice, ...]:
    """How the samples are drawn, where it is not with all weights as they are."""
    if placement is None or not placement.is_8_bit:
        return ()
    if DENOISER not in placement.streamed:
        why = msg("in 16 bits they do not fit the card while it draws")
        return (Choice(name="samples", value=msg("weights in 8 bits"), reason=why),)
    why = msg(
        "they do not fit the card while it draws, which takes longer; no_samples leaves it out"
    )
    return (Choice(name="samples", value=msg("weights streamed from memory"), reason=why),)


def guide_seconds(card: Card, *, num_passes: int, is_sdxl: bool) -> float | None:
    """Seconds of so many image passes by the guide's table; None for a card not in it."""
    if card.guide_hours is None:
        return None
    factor = GUIDE_SDXL if is_sdxl else 1.0
    return card.guide_hours * 3600 * num_passes / GUIDE_PASSES * factor


def expected_choices(expected: Expected | None) -> tuple[Choice, ...]:
    """Time and cost as lines of the plan."""
    if expected is None:
        return ()
    known = (
        msg("measured on such cards") if expected.step.is_measured else msg("by the card's peak")
    )
    each = msg(
        "{seconds} s a step, {known}, give or take {error}",
        seconds=f"{expected.step.seconds:.2f}",
        known=known,
        error=f"{expected.step.error:.0%}",
    )
    if expected.pictures_seconds:
        each = msg(
            "{each}; {duration} of it for samples",
            each=each,
            duration=duration(expected.pictures_seconds),
        )
    if expected.drafting_seconds >= 1:
        each = msg(
            "{each}; {duration} of it for drafts of captions, estimated without the model's"
            " download",
            each=each,
            duration=duration(expected.drafting_seconds),
        )
    found = [
        *_drawing(expected.placement),
        Choice(name="time", value=duration(expected.seconds), reason=each),
    ]
    if expected.price is not None and expected.usd is not None:
        price = expected.price
        found.append(
            Choice(
                name="cost",
                value=f"${expected.usd:.2f}",
                reason=msg(
                    "${usd_per_hour} an hour, {by}",
                    usd_per_hour=f"{price.usd_per_hour:.2f}",
                    by=_by(price),
                ),
            )
        )
    return tuple(found)


def few_updates(
    settings: Settings, expected: Expected | None, length: Length, *, images_per_update: int
) -> tuple[Problem, ...]:
    """A warning of a run that moves the weights seldom, with what would do so more often and what
    that takes."""
    if length.num_steps >= FEWEST_UPDATES:
        return ()
    text = msg(
        "{n} updates of the weights are few: a LoRA seldom learns its subject in under {fewest}",
        n=length.num_steps,
        fewest=FEWEST_UPDATES,
    )
    epochs = -(-FEWEST_UPDATES // length.steps_per_epoch)
    updates = FEWEST_UPDATES if settings.max_train_steps else epochs * length.steps_per_epoch
    longer = (
        msg("max_train_steps = {updates}", updates=updates)
        if settings.max_train_steps
        else msg("max_train_epochs = {epochs} makes {updates}", epochs=epochs, updates=updates)
    )
    ways = [longer]
    if expected is not None:
        seconds = expected.step.seconds * updates + expected.seconds - expected.training_seconds
        takes = [msg("takes {duration}", duration=duration(seconds))]
        if expected.price is not None:
            takes.append(msg("costs ${usd}", usd=f"{cost_usd(seconds, expected.price):.2f}"))
        ways = [msg("{longer} and {takes}", longer=longer, takes=", ".join(takes))]
    if images_per_update > 1 and not settings.max_train_steps:
        smaller = max(1, images_per_update * length.num_steps // FEWEST_UPDATES)
        ways.append(
            msg(
                "effective_batch_size = {smaller} makes more of the same images, in more time",
                smaller=smaller,
            )
        )
    return (Problem(text=text, fix=joined(*ways), level="warning"),)


def over_budget(settings: Settings, expected: Expected | None, length: Length) -> list[Problem]:
    """What the run would go over, and what would fit.

    An error only where even the fast end of the estimate is over, and, for dollars, the price is
    the user's or the host's; else a warning: the run itself stops at its limits.
    """
    if expected is None:
        return []
    found: list[Problem] = []
    if settings.max_hours is not None:
        limit = settings.max_hours * 3600
        max_hours = msg("max_hours = {max_hours}", max_hours=f"{settings.max_hours:g}")
        about = msg("about {duration}", duration=duration(expected.seconds))
        found += _judged(
            max_hours, about, expected, limit, length, raise_key="max_hours", is_sure=True
        )
    if expected.price and expected.usd is not None and expected.price.usd_per_hour > 0:
        limit = settings.max_cost_usd / expected.price.usd_per_hour * 3600
        max_hours = msg("max_cost_usd = {max_cost_usd}", max_cost_usd=f"{settings.max_cost_usd:g}")
        about = msg(
            "about ${usd} at ${usd_per_hour} an hour",
            usd=f"{expected.usd:.2f}",
            usd_per_hour=f"{expected.price.usd_per_hour:.2f}",
        )
        sure = expected.price.is_sure
        found += _judged(
            max_hours, about, expected, limit, length, raise_key="max_cost_usd", is_sure=sure
        )
    return found


def _judged(
    limit: str,
    about: str,
    expected: Expected,
    limit_seconds: float,
    length: Length,
    *,
    raise_key: str,
    is_sure: bool,
) -> list[Problem]:
    if expected.seconds <= limit_seconds:
        return []
    surely = is_sure and expected.seconds * (1 - expected.step.error) > limit_seconds
    others = expected.seconds - expected.training_seconds
    steps = int((limit_seconds - others) / expected.step.seconds)
    epochs = steps // length.steps_per_epoch
    ways: list[str] = []
    if epochs >= 1:
        ways.append(msg("max_train_epochs = {epochs} would fit", epochs=epochs))
    elif steps >= 1:
        ways.append(msg("max_train_steps = {steps} would fit", steps=steps))
    ways.append(msg("tenner plan --gpu all shows other cards"))
    ways.append(msg("or raise {setting}", setting=raise_key))
    return [
        Problem(
            text=msg("{limit}, but this run takes {about}", limit=limit, about=about),
            fix=joined(*ways),
            level="error" if surely else "warning",
        )
    ]


def _by(price: Price) -> str:
    names = {"set": msg("as you set it"), "host": msg("as the host reports")}
    return names.get(price.kind) or msg(
        "{provider}: {source}", provider=price.provider or msg("price book"), source=price.source
    )
