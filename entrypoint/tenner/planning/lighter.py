"""The next lighter setting of a transformer's levers after its card ran out of memory. Pure.

The memory model was too low for this card, so a setting is looked for whose modelled memory is a
good part below that of the one that failed. Swapped blocks, checkpointing and a smaller batch (as
many images to a step, by accumulation) change nothing of what is learnt: of those the cheapest in
time. Weights in 8 bits change the base that the LoRA is trained over, and come after them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from tenner.core.family import Family
from tenner.engines.train_options import TrainOptions, Value
from tenner.families import FAMILIES, Transformer
from tenner.planning.batch_choice import CardMemory
from tenner.planning.ladder import FP8_SLOWDOWN
from tenner.planning.sizing import seconds_per_image
from tenner.planning.vram import Load, needed_gb
from tenner.rules.lycoris import adds_to_weights

LESS = 0.1
"""Share of the modelled memory that a lighter setting saves at least: each costs a restart, and the
models of transformers may be off by as much."""


@dataclass(frozen=True, kw_only=True)
class Levers:
    """A setting of all levers. `fp8` tells that the base's weights are held in 8 bits."""

    batch_size: int
    gradient_checkpointing: bool
    blocks_to_swap: int
    fp8: bool


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is trained where: `pixels` of the largest bucket, and the card's name."""

    family: Family
    pixels: int
    card: str
    may_change_batch: bool = True
    may_checkpoint: bool = True
    num_processes: int = 1


def levers_of(options: TrainOptions, size: Transformer) -> Levers:
    """The levers as these options set them."""
    return Levers(
        batch_size=options.train_batch_size,
        gradient_checkpointing=options.gradient_checkpointing,
        blocks_to_swap=int(str(options.only_sd_scripts("blocks_to_swap") or 0)),
        fp8=bool(options.only_sd_scripts(size.fp8_option)),
    )


def lighter_levers(options: TrainOptions, trained: Trained) -> Levers | None:
    """The cheapest setting that takes clearly less memory than `options`, else the one that takes
    the least; None where nothing takes less."""
    size = FAMILIES[trained.family].transformer
    assert size is not None
    now = levers_of(options, size)
    load = _load(options, trained)
    card = CardMemory(name=trained.card, free_mib=None)

    def memory(each: Levers) -> float:
        return needed_gb(
            _with(load, each),
            batch_size=each.batch_size,
            gradient_checkpointing=each.gradient_checkpointing,
        )

    def cost(each: Levers) -> tuple[bool, float, int]:
        seconds = seconds_per_image(
            _with(load, each), card, each.batch_size, each.gradient_checkpointing
        )
        return each.fp8, seconds * (FP8_SLOWDOWN if each.fp8 else 1.0), each.blocks_to_swap

    needed = memory(now)
    less = [each for each in _lighter(options, trained, size, now) if memory(each) < needed]
    enough = [each for each in less if memory(each) <= needed * (1 - LESS)]
    if enough:
        return min(enough, key=cost)
    return min(less, key=memory, default=None)


def changed_options(
    now: Levers, lighter: Levers, options: TrainOptions, size: Transformer
) -> dict[str, Value]:
    """The options that differ between two settings of the levers."""
    images = options.train_batch_size * options.gradient_accumulation_steps
    changed: dict[str, Value] = {}
    if lighter.batch_size != now.batch_size:
        changed["train_batch_size"] = lighter.batch_size
        changed["gradient_accumulation_steps"] = images // lighter.batch_size
    if lighter.gradient_checkpointing != now.gradient_checkpointing:
        changed["gradient_checkpointing"] = True
    if lighter.blocks_to_swap != now.blocks_to_swap:
        changed["blocks_to_swap"] = lighter.blocks_to_swap
    if lighter.fp8 != now.fp8:
        changed[size.fp8_option] = True
    return changed


def _lighter(
    options: TrainOptions, trained: Trained, size: Transformer, now: Levers
) -> Iterator[Levers]:
    """Every setting with no lever above `now`'s; what the user set by name stays."""
    images = options.train_batch_size * options.gradient_accumulation_steps
    batches = [now.batch_size]
    if trained.may_change_batch:
        batches = [each for each in range(1, now.batch_size + 1) if images % each == 0]
    can_checkpoint = trained.may_checkpoint and not now.gradient_checkpointing
    is_set = options.engine_options.get
    swaps = is_set("blocks_to_swap") is None and not is_set("cpu_offload_checkpointing")
    most = size.blocks.most_swapped if swaps else now.blocks_to_swap
    summed = adds_to_weights(options.network_module, options.network_args)
    can_fp8 = size.has_fp8 and is_set(size.fp8_option) is None
    can_fp8 = can_fp8 and options.mixed_precision != "no" and not summed
    settings = product(
        batches,
        sorted({now.gradient_checkpointing, now.gradient_checkpointing or can_checkpoint}),
        range(now.blocks_to_swap, max(most, now.blocks_to_swap) + 1),
        sorted({now.fp8, now.fp8 or can_fp8}),
    )
    for batch, checkpointing, blocks, fp8 in settings:
        yield Levers(
            batch_size=batch,
            gradient_checkpointing=checkpointing,
            blocks_to_swap=blocks,
            fp8=fp8,
        )


def _load(options: TrainOptions, trained: Trained) -> Load:
    return Load(
        family=trained.family,
        pixels=trained.pixels,
        network_dim=options.network_dim,
        unet_trained=not options.network_train_text_encoder_only,
        text_encoder_trained=not options.network_train_unet_only,
        optimizer=options.optimizer_type,
        half_lora=any(map(options.only_sd_scripts, ("full_bf16", "full_fp16"))),
        full_precision=options.mixed_precision == "no",
        num_processes=trained.num_processes,
        text_gb=0.0,  # no lever lightens the encoding of the captions, which comes before
    )


def _with(load: Load, levers: Levers) -> Load:
    return replace(load, half_base=levers.fp8, blocks_to_swap=levers.blocks_to_swap)
