"""How a card is used: batch and gradient checkpointing, one decision with accumulation.

Pure: from the card and the settings to a choice with its reason.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from tenner.core.errors import MachineError, SettingsError
from tenner.core.messages import msg
from tenner.planning.batch_choice import HEADROOM, BatchChoice, CardMemory, Wish
from tenner.planning.checkpointing import LEVELS, num_blocks
from tenner.planning.speed import modelled_seconds, swapping_seconds
from tenner.planning.vram import Load, largest_batch, needed_gb

MODEL_MARGIN = 0.85
"""A batch is refused only where even this share of the model's estimate does not fit: the model has
been 10 % too high, and what it has not seen may be further off."""
AUTO_LIMIT = 8
"""`auto` stops here: the guide's largest batch. More images a step mean fewer steps to learn in."""
MIN_GAIN = 0.10
"""Some of the blocks are recomputed only where that trains this share more images a second than all
or none of them: the time model was up to 9.9 % off where it was held against measurements, and a
gain within its own error is no reason for another batch or for a fuller card."""
_USUAL_PEAK = 100.0  # TFLOP/s, to compare choices on a card whose peak is not known


def choose_batch(load: Load, card: CardMemory, wish: Wish) -> BatchChoice:
    """Batch, checkpointing and accumulation for a card.

    Raises MachineError where not even one image fits with every saving on, and SettingsError where
    the user's own batch cannot fit, naming the one that does.
    """
    part = _part_of_effective(wish)
    limited = wish if part is None else replace(wish, most_images=min(part, _most(wish)))
    choice = _choose(load, card, limited)

    def refit(size: int) -> BatchChoice:
        return _of_size(load, card, size, wish.gradient_checkpointing)

    return fill_up(choice, wish, refit=None if card.free_mib is None else refit)


def fill_up(
    choice: BatchChoice, wish: Wish, *, refit: Callable[[int], BatchChoice] | None = None
) -> BatchChoice:
    """Accumulate up to the requested effective batch, from its largest divisor that the card takes.

    `refit` sizes a smaller batch anew. Raises SettingsError where the parts do not make the whole.
    """
    part = _part_of_effective(wish)
    if part is None:
        why = msg("as set") if wish.accumulation > 1 else msg("none is set")
        return replace(choice, accumulation=wish.accumulation, why_accumulation=why)
    size = max(each for each in range(1, choice.batch_size + 1) if part % each == 0)
    if size != choice.batch_size:
        reason = msg(
            "the largest part of {part} up to {batch_size}", part=part, batch_size=choice.batch_size
        )
        if refit:
            choice = refit(size)
            reason = msg("{reason}; {reason2}", reason=reason, reason2=choice.reason)
        choice = replace(choice, batch_size=size, reason=reason)
    why = msg(
        "{effective_batch_size} images to a step, as set",
        effective_batch_size=wish.effective_batch_size,
    )
    return replace(choice, accumulation=part // size, why_accumulation=why)


def _choose(load: Load, card: CardMemory, wish: Wish) -> BatchChoice:
    if card.free_mib is None:
        return _blind(wish)
    if isinstance(wish.batch_size, int):
        return _as_requested(load, card, wish, wish.batch_size)
    _refuse_too_small(load, card, wish)
    guide = card.known.guide_batch if card.known else None
    if wish.batch_size == "auto" and guide and load.family in ("sd1", "sdxl"):
        size = min(guide[load.family == "sdxl"], _most(wish))
        choice = _of_size(load, card, size, wish.gradient_checkpointing)
        if not choice.is_unsure:
            reason = msg(
                "the guide's for {name}", name=card.known.name if card.known else card.name
            )
            return replace(
                choice, reason=msg("{reason}; {reason2}", reason=reason, reason2=choice.reason)
            )
    limit = _most(wish) if wish.batch_size == "max" else min(_most(wish), AUTO_LIMIT)
    return _fastest(load, card, wish, limit)


def _blind(wish: Wish) -> BatchChoice:
    size = wish.batch_size if isinstance(wish.batch_size, int) else 1
    saving = wish.gradient_checkpointing is not False
    reason = msg("the card does not report its memory: the least that can run")
    return BatchChoice(
        batch_size=size,
        gradient_checkpointing=saving,
        needed_gb=None,
        reason=msg("as set; the card does not report its memory") if size > 1 else reason,
        why_checkpointing=msg("as set") if wish.gradient_checkpointing is not None else reason,
        is_unsure=True,
    )


def _as_requested(load: Load, card: CardMemory, wish: Wish, size: int) -> BatchChoice:
    """The user's batch: refused only where it certainly does not fit."""
    choice = _of_size(load, card, size, wish.gradient_checkpointing)
    if _may_fit(choice.needed_gb, card):
        return choice
    _refuse_too_small(load, card, wish)
    fits = {
        saving: largest_batch(load, free_gb=card.usable_gb, gradient_checkpointing=saving)
        for saving in _switches(wish)
    }
    most = max(fits.values())
    fix = msg("set batch_size = {most}", most=most) if most else msg("set batch_size = 1")
    if not fits[choice.gradient_checkpointing]:
        fix = msg("{fix} and gradient_checkpointing = true", fix=fix)
    part = max((each for each in range(1, most + 1) if size % each == 0), default=0)
    if part and wish.effective_batch_size is None:
        fix = msg(
            "{fix}, or batch_size = {part} and gradient_accumulation_steps = {size} for as"
            " many images to a step",
            fix=fix,
            part=part,
            size=size // part * wish.accumulation,
        )
    saving = msg(" with gradient checkpointing") if choice.gradient_checkpointing else ""
    raise SettingsError(
        msg(
            "batch_size = {size} needs about {needed_gb} GB{saving}; {name} has {free_gb} GB free",
            size=size,
            needed_gb=f"{choice.needed_gb:.1f}",
            saving=saving,
            name=card.name,
            free_gb=f"{card.free_gb:.1f}",
        ),
        fix=msg("{fix}; or leave it to batch_size = 'auto'", fix=fix),
    )


def _of_size(load: Load, card: CardMemory, size: int, checkpointing: bool | None) -> BatchChoice:
    """A given batch: without checkpointing where it fits, as that is faster, else with as few
    recomputed blocks as fit, where that is faster than all of them."""
    if checkpointing is not None:
        return _with_blocks(load, card, size, checkpointing, None, msg("as set"))
    plain = needed_gb(load, batch_size=size, gradient_checkpointing=False)
    if plain <= card.usable_gb:
        return _with_blocks(load, card, size, False, None, msg("not needed, and it costs time"))
    why = msg("needs {plain} GB without it", plain=f"{plain:.1f}")
    whole = _with_blocks(load, card, size, True, None, why)
    blocks = _fewest_blocks(load, card, size) if load.is_traced else None
    if blocks is None:
        return whole
    partial = _with_blocks(load, card, size, True, blocks, why)
    return partial if _gain(load, card, partial, whole) >= MIN_GAIN else whole


def _with_blocks(
    load: Load, card: CardMemory, size: int, recompute: bool, blocks: int | None, why: str
) -> BatchChoice:
    """A given batch and checkpointing, with what they need."""
    needed = needed_gb(
        load, batch_size=size, gradient_checkpointing=recompute, checkpointed_blocks=blocks
    )
    fits = needed <= card.usable_gb
    return BatchChoice(
        batch_size=size,
        gradient_checkpointing=recompute,
        needed_gb=needed,
        reason=_need(needed, card, fits=fits),
        why_checkpointing=why,
        checkpointed_blocks=blocks,
        is_unsure=not fits,
    )


def _fewest_blocks(load: Load, card: CardMemory, size: int) -> int | None:
    """How many blocks must be recomputed for a batch to fit; None where that is all of them."""
    some = range(1, num_blocks(load.family))

    def fits(number: int) -> bool:
        needed = needed_gb(
            load, batch_size=size, gradient_checkpointing=True, checkpointed_blocks=number
        )
        return needed <= card.usable_gb

    index = bisect_left(some, True, key=fits)
    return some[index] if index < len(some) else None


def _fastest(load: Load, card: CardMemory, wish: Wish, limit: int) -> BatchChoice:
    """The pair of batch and checkpointing that trains an image soonest, by the time model; with
    some of the blocks recomputed only where that gains MIN_GAIN."""
    choices = [
        _of_size(load, card, min(fits, limit), saving)
        for saving in _switches(wish)
        if (fits := largest_batch(load, free_gb=card.usable_gb, gradient_checkpointing=saving))
    ]
    if not choices:  # the least that can run may still fit, as the model is not exact
        least = _of_size(load, card, 1, wish.gradient_checkpointing is not False)
        if wish.gradient_checkpointing is None:
            least = replace(least, why_checkpointing=msg("not one image fits without it"))
        return least
    whole, *others = sorted(choices, key=lambda each: _seconds_per_image(load, card, each))
    partial = _best_partial(load, card, limit) if _may_choose_blocks(load, wish) else None
    choice, why = _partial_or_whole(load, card, partial, whole)
    if choice is whole and others:
        why = _joined(_compared(load, card, choice, others[0]), why)
    elif choice is whole:
        first = msg("not one image fits without it")
        first = whole.why_checkpointing if wish.gradient_checkpointing is not None else first
        why = _joined(first, why)
    bound = (
        msg("the card's limit")
        if choice.batch_size < limit
        else msg("the most that {limited_by}", limited_by=_limited_by(wish, limit))
    )
    return replace(
        choice,
        reason=msg("{bound}; {reason}", bound=bound, reason=choice.reason),
        why_checkpointing=why,
    )


def _partial_or_whole(
    load: Load, card: CardMemory, partial: BatchChoice | None, whole: BatchChoice
) -> tuple[BatchChoice, str]:
    """Which of both is taken, and what the other would cost or gain; empty where it gains
    nothing."""
    gain = _gain(load, card, partial, whole) if partial else 0.0
    if partial is None or gain <= 0:
        return whole, ""
    if gain >= MIN_GAIN:
        return partial, _compared(load, card, partial, whole)
    return whole, msg(
        "batch {size} with {blocks} blocks recomputed would train {gain} more images a second,"
        " less than the time model may be off",
        size=partial.batch_size,
        blocks=partial.checkpointed_blocks,
        gain=f"{gain:.0%}",
    )


def _joined(first: str, second: str) -> str:
    return msg("{first}; {second}", first=first, second=second) if second else first


def _may_choose_blocks(load: Load, wish: Wish) -> bool:
    return load.is_traced and wish.gradient_checkpointing is None


def _best_partial(load: Load, card: CardMemory, limit: int) -> BatchChoice | None:
    """The fastest of the batches that some level of recomputation allows, each with the fewest
    blocks that it needs; None where all of them need none or all."""
    sizes = {
        largest_batch(
            load,
            free_gb=card.usable_gb,
            gradient_checkpointing=True,
            checkpointed_blocks=level.blocks,
        )
        for level in LEVELS[load.family]
    }
    found = [
        _with_blocks(load, card, size, True, blocks, "")
        for size in sorted({min(size, limit) for size in sizes if size})
        if needed_gb(load, batch_size=size, gradient_checkpointing=False) > card.usable_gb
        and (blocks := _fewest_blocks(load, card, size)) is not None
    ]
    return min(found, key=lambda each: _seconds_per_image(load, card, each), default=None)


def _gain(load: Load, card: CardMemory, choice: BatchChoice, other: BatchChoice) -> float:
    """How many more images a second a choice trains than another, as a share."""
    return _seconds_per_image(load, card, other) / _seconds_per_image(load, card, choice) - 1


def _compared(load: Load, card: CardMemory, chosen: BatchChoice, other: BatchChoice) -> str:
    share = _gain(load, card, chosen, other)
    if chosen.checkpointed_blocks is not None and other.gradient_checkpointing:
        return msg(
            "batch {other} with all of them would take {share} longer",
            other=other.batch_size,
            share=f"{share:.0%}",
        )
    words = msg("with") if other.gradient_checkpointing else msg("without")
    return msg(
        "batch {other} {words} it would take {share} longer",
        other=other.batch_size,
        words=words,
        share=f"{share:.0%}",
    )


def _limited_by(wish: Wish, limit: int) -> str:
    if limit == _most(wish):
        return msg("the largest bucket can fill")
    return msg("auto takes (max fills the card)")


def _seconds_per_image(load: Load, card: CardMemory, choice: BatchChoice) -> float:
    return seconds_per_image(
        load,
        card,
        choice.batch_size,
        choice.gradient_checkpointing,
        choice.checkpointed_blocks,
    )


def seconds_per_image(
    load: Load,
    card: CardMemory,
    batch_size: int,
    gradient_checkpointing: bool,
    checkpointed_blocks: int | None = None,
) -> float:
    """By the time model, to compare choices."""
    peak = card.known.peak_tflops if card.known else None
    seconds = modelled_seconds(
        load,
        peak_tflops=peak or _USUAL_PEAK,
        batch_size=batch_size,
        gradient_checkpointing=gradient_checkpointing,
        checkpointed_blocks=checkpointed_blocks,
    )
    return (seconds + swapping_seconds(load)) / batch_size


def _refuse_too_small(load: Load, card: CardMemory, wish: Wish) -> None:
    """Raise MachineError where not one image fits, even if the model is too high."""
    saving = wish.gradient_checkpointing is not False
    least = needed_gb(load, batch_size=1, gradient_checkpointing=saving)
    if _may_fit(least, card):
        return
    even = (
        msg("even with gradient checkpointing") if saving else msg("without gradient checkpointing")
    )
    ways = [msg("lower resolution") if load.is_ia3 else msg("lower network_dim or resolution")]
    if load.text_encoder_trained:
        ways.append(msg("set network_train_unet_only = true"))
    if not saving:
        ways.append(msg("set gradient_checkpointing = true"))
    if load.cuda_graphs:
        ways.append(msg("set cuda_graphs = false"))
    raise MachineError(
        msg(
            "one image needs {least} GB {even}; {name} has {free_gb} GB free",
            least=f"{least:.1f}",
            even=even,
            name=card.name,
            free_gb=f"{card.free_gb:.1f}",
        ),
        fix=msg(
            "rent a card with {least} GB or more, or {ways}",
            least=f"{least / HEADROOM:.0f}",
            ways=", or ".join(ways),
        ),
    )


def _part_of_effective(wish: Wish) -> int | None:
    """Images of the requested effective batch that one process takes.

    Raises SettingsError where the parts do not make the whole.
    """
    effective = wish.effective_batch_size
    if effective is None:
        return None
    part, rest = divmod(effective, wish.num_processes)
    size = wish.batch_size if isinstance(wish.batch_size, int) else 1
    if rest or part % size:
        by = (
            msg("num_processes = {num_processes}", num_processes=wish.num_processes)
            if rest
            else msg("batch_size = {size}", size=size)
        )
        raise SettingsError(
            msg(
                "effective_batch_size = {effective} cannot be divided by {by}",
                effective=effective,
                by=by,
            ),
            fix=msg("choose a multiple, or leave batch_size to 'auto'"),
        )
    return part


def _switches(wish: Wish) -> tuple[bool, ...]:
    """With and without checkpointing, or only as the user set it."""
    requested = wish.gradient_checkpointing
    return (False, True) if requested is None else (requested,)


def _most(wish: Wish) -> int:
    return max(1, wish.most_images)


def _may_fit(needed: float | None, card: CardMemory) -> bool:
    return needed is None or needed * MODEL_MARGIN <= card.free_gb / card.correction


def _need(needed: float, card: CardMemory, *, fits: bool) -> str:
    gb, free = f"{needed * card.correction:.1f}", f"{card.free_gb:.1f}"
    if fits:
        return msg("needs {needed} of {free} GB", needed=gb, free=free)
    return msg("may not fit: needs {needed} of {free} GB", needed=gb, free=free)
