"""The options that save memory when a card or its machine runs out of it, in their order. Pure.

On a card first the images of a micro-batch (their number in a step stays the same, by
accumulation), then the activations that gradient checkpointing computes again, of all blocks where
it was some, and last, where the user allows it, the training of the text encoder. The first two
change nothing of what is learnt.
A transformer has more levers: blocks that wait in memory, and weights in 8 bits; of all of them the
cheapest in time is taken (`tenner.planning.lighter`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tenner.core.messages import msg
from tenner.engines.train_options import TrainOptions, Value
from tenner.families import FAMILIES
from tenner.kohya.networks import is_ia3
from tenner.planning.lighter import Trained, changed_options, levers_of, lighter_levers
from tenner.settings.model import Settings

CHANGES_THE_NETWORK = frozenset(("network_train_unet_only", "cache_text_encoder_outputs"))
"""Options with which earlier states do not fit any more; they are never changed back."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One fallback: the options that change, and their report. `states_fit` is False where earlier
    states cannot be resumed with them."""

    changed: Mapping[str, Value] = field(default_factory=dict[str, Value])
    description: str
    states_fit: bool = True


def next_rung(
    options: TrainOptions, settings: Settings, trained: Trained | None = None
) -> Rung | None:
    """The next options to try after `options` ran out of memory; None where there are no more.

    `trained` is set for families with a transformer.
    """
    if trained is not None:
        return _lighter_transformer(options, settings, trained)
    batch = options.train_batch_size
    if batch > 1 and (settings.may_change_batch or not isinstance(settings.batch_size, int)):
        return _smaller_batch(batch, options.gradient_accumulation_steps)
    is_whole = options.gradient_checkpointing and options.checkpointed_blocks is None
    if not is_whole and settings.gradient_checkpointing is not False:
        return Rung(
            changed={"gradient_checkpointing": True, "checkpointed_blocks": None},
            description=msg(
                "activations are computed again instead of stored (gradient_checkpointing = true)"
            ),
        )
    return _without_text(options, settings)


def _without_text(options: TrainOptions, settings: Settings) -> Rung | None:
    one_part = options.network_train_unet_only or options.network_train_text_encoder_only
    if settings.may_freeze_text_encoder and not one_part:
        return _frozen_text(options)
    return None


def _lighter_transformer(
    options: TrainOptions, settings: Settings, trained: Trained
) -> Rung | None:
    """The next setting of a transformer's levers, else its text encoders as with other bases."""
    size = FAMILIES[trained.family].transformer
    assert size is not None
    may_change = settings.may_change_batch or not isinstance(settings.batch_size, int)
    may_checkpoint = settings.gradient_checkpointing is not False
    limits = replace(trained, may_change_batch=may_change, may_checkpoint=may_checkpoint)
    lighter = lighter_levers(options, limits)
    if lighter is None:
        return _without_text(options, settings)
    changed = changed_options(levers_of(options, size), lighter, options, size)
    return Rung(changed=changed, description=_lever_words(changed))


def _lever_words(changed: Mapping[str, Value]) -> str:
    """The changed levers as they are reported, as options."""
    options = ", ".join(
        f"{name} = {'true' if value is True else value}" for name, value in changed.items()
    )
    if any(name.startswith("fp8") for name in changed):
        return msg(
            "the base is held in 8 bits, and less of it stays on the card: {options}",
            options=options,
        )
    return msg("the card holds less, and learns the same: {options}", options=options)


def next_rung_on_host(
    options: TrainOptions, settings: Settings, *, engine: str, on_cpu: bool
) -> Rung | None:
    """The next options to try after the machine's memory did not suffice; None where there are no
    more.

    The built-in trainer has no loading processes and caches encoded images on disk as well; on a
    CPU the machine's memory is the training's own.
    """
    if engine == "sd-scripts":
        if options.max_data_loader_n_workers > 0:
            return Rung(
                changed={"max_data_loader_n_workers": 0},
                description=msg(
                    "images are loaded without processes of their own"
                    " (max_data_loader_n_workers = 0)"
                ),
            )
        changing = options.random_crop or options.only_sd_scripts("color_aug")
        cached = options.only_sd_scripts("cache_latents") is not False and not changing
        if cached and not options.only_sd_scripts("cache_latents_to_disk"):
            return Rung(
                changed={"cache_latents_to_disk": True},
                description=msg(
                    "encoded images are cached on disk instead of in memory"
                    " (cache_latents_to_disk = true)"
                ),
            )
    return next_rung(options, settings) if on_cpu else None


def last_words(options: TrainOptions, settings: Settings) -> str:
    """What the user could still allow when there are no more options to try."""
    allow: list[str] = []
    if options.train_batch_size > 1 and not settings.may_change_batch:
        allow.append(msg("may_change_batch = true (the images of a step stay the same)"))
    if not options.gradient_checkpointing:
        allow.append("gradient_checkpointing = true")
    if not options.network_train_unet_only and not settings.may_freeze_text_encoder:
        allow.append("may_freeze_text_encoder = true")
    if not allow and is_ia3(options.network_module, options.network_args):
        return msg("a smaller resolution, or a card with more memory")
    if not allow:
        return msg("a smaller resolution or network_dim, or a card with more memory")
    return msg("set {allow}, or rent a card with more memory", allow=", or ".join(allow))


def _smaller_batch(batch: int, accumulation: int) -> Rung:
    """At most half, and a divisor, so that a step still has exactly as many images."""
    images = batch * accumulation
    smaller = max(size for size in range(1, batch // 2 + 1) if images % size == 0)
    return Rung(
        changed={
            "train_batch_size": smaller,
            "gradient_accumulation_steps": images // smaller,
        },
        description=msg(
            "batch {batch} → {smaller}, {images} of them a step: still {images2} images a step",
            batch=batch,
            smaller=smaller,
            images=images // smaller,
            images2=images,
        ),
    )


def _frozen_text(options: TrainOptions) -> Rung:
    changing = (options.shuffle_caption, options.caption_dropout_rate)
    changed: dict[str, Value] = {"network_train_unet_only": True}
    if not any((*changing, options.caption_tag_dropout_rate)):
        changed["cache_text_encoder_outputs"] = True
    return Rung(
        changed=changed,
        description=msg(
            "the text encoder is no longer trained (network_train_unet_only = true); the"
            " run starts anew"
        ),
        states_fit=False,
    )
