"""How a transformer is made to fit a card: 8-bit weights, swapped blocks, checkpointing, batch.

Where the batch is left to the plan, `ladder` chooses. With a batch that is set, of all that fit,
the one that trains an image soonest by the time model; at equal times the one that changes least.
Pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tenner.core.errors import MachineError, Problem
from tenner.core.messages import msg
from tenner.families import FAMILIES, Transformer
from tenner.hardware.cards import Card, cards
from tenner.hardware.prices import book_prices
from tenner.planning.batch_choice import HEADROOM, BatchChoice, CardMemory, Choice, Wish
from tenner.planning.ladder import FP8_SLOWDOWN, Rung, highest_rung, is_climbed
from tenner.planning.sizing import MIN_GAIN, choose_batch, seconds_per_image
from tenner.planning.vram import Load, encoding_gb, needed_gb
from tenner.rules.lycoris import adds_to_weights
from tenner.settings.model import Settings


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The load with its levers set, the batch, the options that set them, and why."""

    load: Load
    batch: BatchChoice
    options: Mapping[str, bool | int]
    choices: tuple[Choice, ...]


def fit_transformer(settings: Settings, load: Load, card: CardMemory, wish: Wish) -> Fitted:
    """Set the levers that the user left open.

    Raises MachineError where the base does not fit the card, with the cheapest that does, and
    SettingsError where the user's own batch cannot be had.
    """
    size = load.transformer
    assert size is not None
    load, options, choices = _with_captions(settings, load, card)
    if card.free_mib is not None and is_climbed(wish):
        rung = highest_rung(_variants(settings, load, size), card, wish)
        found = [(rung.load, _of_rung(rung, card, wish))] if rung else []
    else:
        found = _fitting(settings, load, card, wish)
    if found:
        variant, batch = min(found, key=lambda each: _cost(*each, card))
    else:
        variant = _leanest(settings, load, size)
        batch = _batch_or_refusal(variant, card, wish)
    if variant.half_base and not load.half_base:
        options[size.fp8_option] = True
    if variant.blocks_to_swap and not load.blocks_to_swap:
        options["blocks_to_swap"] = variant.blocks_to_swap
    return Fitted(
        load=variant,
        batch=batch,
        options=options,
        choices=(*_choices(settings, variant, size), *choices),
    )


def _with_captions(
    settings: Settings, load: Load, card: CardMemory
) -> tuple[Load, dict[str, bool | int], tuple[Choice, ...]]:
    """The load with the first of the family's levers that lets the card encode the captions.

    Raises MachineError where none does.
    """
    facts, size = FAMILIES[load.family], load.transformer
    if card.free_mib is None or size is None:
        return load, {}, ()
    if encoding_gb(load) <= card.usable_gb:
        return load, {}, ()
    text = size.text_gb if load.text_gb is None else load.text_gb
    for name, share in facts.captions_shares.items():
        lighter = replace(load, text_gb=text * share)
        if settings.engine_options.get(name) is None and encoding_gb(lighter) <= card.usable_gb:
            reason = msg(
                "encoding the captions would need {needed} GB without",
                needed=_gb(encoding_gb(load)),
            )
            return lighter, {name: True}, (Choice(name=name, value="true", reason=reason),)
    if encoding_gb(load) <= card.free_gb / card.correction:
        return load, {}, ()
    raise MachineError(problems=[_encoding_problem(load, card)])


def _gb(number: float) -> str:
    return f"{number:.1f}"


def _of_rung(rung: Rung, card: CardMemory, wish: Wish) -> BatchChoice:
    """A rung of the ladder as a choice, with its reasons."""
    choice = choose_batch(
        rung.load,
        card,
        replace(
            wish,
            batch_size=rung.batch_size,
            accumulation=rung.accumulation,
            gradient_checkpointing=rung.gradient_checkpointing,
        ),
    )
    larger = msg(
        "a larger one does not fit, or gains less than {share} of the time", share=f"{MIN_GAIN:.0%}"
    )
    why_accumulation = choice.why_accumulation
    if rung.accumulation > 1:
        why_accumulation = msg("as many images to a step as a smaller card takes")
    elif wish.accumulation == 1:
        why_accumulation = msg("none is set")
    why = choice.why_checkpointing
    if wish.gradient_checkpointing is None and rung.gradient_checkpointing:
        plain = needed_gb(rung.load, batch_size=rung.batch_size, gradient_checkpointing=False)
        why = msg("needs {plain} GB without it", plain=_gb(plain))
    elif wish.gradient_checkpointing is None:
        why = msg("not needed, and it costs time")
    return replace(
        choice,
        reason=msg("{bound}; {reason}", bound=larger, reason=choice.reason),
        why_checkpointing=why,
        why_accumulation=why_accumulation,
    )


def _fitting(
    settings: Settings, load: Load, card: CardMemory, wish: Wish
) -> list[tuple[Load, BatchChoice]]:
    """All settings of the open levers that fit the card with the batch that is set."""
    size = load.transformer
    assert size is not None
    return [
        (variant, batch)
        for variant in _variants(settings, load, size)
        if (batch := _batch(variant, card, wish)) and not batch.is_unsure
    ]


def _variants(settings: Settings, load: Load, size: Transformer) -> Iterator[Load]:
    """The load with each setting of the levers that are open, from the least change on."""
    swapped = settings.engine_options.get("blocks_to_swap")
    offloads = settings.engine_options.get("cpu_offload_checkpointing")
    most = 0 if swapped is not None or offloads else size.blocks.most_swapped
    for half in _halves(settings, load, size):
        for blocks in range(most + 1):
            yield replace(
                load,
                half_base=half,
                blocks_to_swap=blocks or load.blocks_to_swap,
                text_gb=load.text_gb if half else _text_in_16_bits(load, size),
            )


def _text_in_16_bits(load: Load, size: Transformer) -> float | None:
    """What the text encoders take where the base has 16 bits: sd-scripts widens a T5 in 8 bits,
    which it leaves as it is with `fp8_base` alone."""
    has_t5 = any(each.option == "t5xxl" for each in FAMILIES[load.family].files)
    if load.text_gb is None or not has_t5:
        return load.text_gb
    return max(load.text_gb, size.text_gb)


def _halves(settings: Settings, load: Load, size: Transformer) -> tuple[bool, ...]:
    is_open = settings.engine_options.get(size.fp8_option) is None and not load.half_base
    can = size.has_fp8 and not load.full_precision and not _adds_to_weights(settings)
    return (False, True) if is_open and can else (load.half_base,)


def _adds_to_weights(settings: Settings) -> bool:
    return adds_to_weights(settings.network_module, settings.network_args)


def _leanest(settings: Settings, load: Load, size: Transformer) -> Load:
    *_, last = _variants(settings, load, size)
    return last


def _batch(load: Load, card: CardMemory, wish: Wish) -> BatchChoice | None:
    """None where not one image fits. Raises SettingsError for a batch that cannot be had."""
    checkpointed = wish.gradient_checkpointing is not False
    least = needed_gb(load, batch_size=1, gradient_checkpointing=checkpointed)
    if card.free_mib is not None and least > card.usable_gb:
        return None
    size = wish.batch_size if isinstance(wish.batch_size, int) else 1
    needed = needed_gb(load, batch_size=size, gradient_checkpointing=checkpointed)
    if card.free_mib is not None and needed > card.usable_gb:
        return None
    return choose_batch(load, card, wish)


def _cost(load: Load, batch: BatchChoice, card: CardMemory) -> tuple[float, bool, int]:
    seconds = seconds_per_image(load, card, batch.batch_size, batch.gradient_checkpointing)
    slower = seconds * (FP8_SLOWDOWN if load.half_base else 1.0)
    return slower, load.half_base, load.blocks_to_swap


def _batch_or_refusal(load: Load, card: CardMemory, wish: Wish) -> BatchChoice:
    try:
        return choose_batch(load, card, wish)
    except MachineError as error:
        checkpointed = wish.gradient_checkpointing is not False
        needed = needed_gb(load, batch_size=1, gradient_checkpointing=checkpointed)
        problems = [
            replace(each, fix=msg("{fix}; {cards}", fix=each.fix, cards=cheapest_that_fits(needed)))
            for each in error.problems
        ]
        raise MachineError(problems=problems) from None


def _encoding_problem(load: Load, card: CardMemory) -> Problem:
    needed = encoding_gb(load)
    return Problem(
        text=msg(
            "encoding the captions needs {needed} GB, for the text encoders alone; {name} has"
            " {free_gb} GB free",
            needed=f"{needed:.1f}",
            name=card.name,
            free_gb=f"{card.free_gb:.1f}",
        ),
        fix=msg(
            "name a text encoder in 8 bits (for T5-XXL: t5xxl = t5xxl_fp8_e4m3fn.safetensors), or"
            " take a larger card: {cards}",
            cards=cheapest_that_fits(needed),
        ),
    )


def cheapest_that_fits(needed: float) -> str:
    """The smallest card that has so many GB, and what it costs."""
    fitting = [each for each in cards() if _usable_gb(each) >= needed and book_prices(each.name)]
    if not fitting:
        return msg("no card with a known price has {needed} GB", needed=f"{needed:.0f}")

    def price(card: Card) -> float:
        return min(each.usd_per_hour for each in book_prices(card.name))

    smallest = min(fitting, key=lambda each: (each.nameplate_gb, price(each)))
    return msg(
        "the smallest is {name} with {memory} GB, from ${usd} an hour",
        name=smallest.name,
        memory=smallest.nameplate_gb,
        usd=f"{price(smallest):.2f}",
    )


def _usable_gb(card: Card) -> float:
    return card.free_mib * 2**20 / 1e9 * HEADROOM


def _choices(settings: Settings, load: Load, size: Transformer) -> tuple[Choice, ...]:
    options = settings.engine_options
    weights = msg("8 bits") if load.half_base else msg("16 bits")
    is_set = options.get(size.fp8_option) is not None
    why = msg("as set") if is_set else _why_weights(settings, load, size)
    moved = msg("as set") if options.get("blocks_to_swap") is not None else _why_swapped(load)
    return (
        Choice(name="base weights", value=weights, reason=why),
        Choice(name="blocks_to_swap", value=str(load.blocks_to_swap), reason=moved),
    )


def _why_weights(settings: Settings, load: Load, size: Transformer) -> str:
    if load.half_base:
        return msg(
            "{gb} GB instead of {twice} on the card",
            gb=f"{size.parameters / 1e9:.1f}",
            twice=f"{size.parameters * 2 / 1e9:.1f}",
        )
    if not size.has_fp8:
        return msg("sd-scripts has no other for it")
    if _adds_to_weights(settings):
        return msg("LyCORIS adds to them, which takes 16 bits")
    return msg("they fit as they are")


def _why_swapped(load: Load) -> str:
    if load.blocks_to_swap:
        return msg("so many wait in memory, and the rest fits the card")
    return msg("all blocks fit the card")
