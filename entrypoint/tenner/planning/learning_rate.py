"""The learning rate for the images that move the weights once, by the rule that `scale_lr` names.

Averaged over N times as many images a gradient has N times less variance. Adaptive optimizers
divide by its size, so as much is learnt of the same images where the rate grows by the square root
of N (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms",
arXiv 2205.10287); for SGD it is N itself (Goyal et al. 2017, arXiv 1706.02677). Both hold while N
is small beside the noise of the gradient. Pure.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tenner.core.family import Family
from tenner.core.messages import msg
from tenner.kohya.networks import IA3_RATE, is_ia3
from tenner.optimizers import find_optimizer
from tenner.planning.batch_choice import Choice
from tenner.settings import Request, Settings

Rule = Literal["none", "sqrt", "linear"]
RATES = ("learning_rate", "unet_lr", "text_encoder_lr")
_TINY_IMAGES = 8
"""What is usual for the tiny base."""
_GUIDE_IMAGES: Mapping[Family, int] = {"sd1": 4, "sd2": 4}
_OTHER_IMAGES = 2
"""The guide's batches on its first card, an RTX 4090: its rate of 1e-4 is planned for these."""


def decided_rule(request: Request) -> Rule:
    """The rule: the user's; else none where a rate was set, for that is meant for the run as it is,
    and by the optimizer where all are open. An optimizer that finds its rate has none."""
    settings = request.settings
    optimizer = find_optimizer(settings.optimizer_type)
    if optimizer is not None and optimizer.finds_rate:
        return "none"
    if settings.scale_lr is not None:
        return settings.scale_lr
    is_sgd = settings.optimizer_type.lower().startswith("sgd")
    rule: Rule = "linear" if is_sgd else "sqrt"
    if "lr_batch_size" in request.set_at:
        return rule
    return "none" if any(key in request.set_at for key in RATES) else rule


def proposed_rate(request: Request) -> float | None:
    """The learning rate that (IA)³ needs, where all rates are open and the optimizer needs one;
    else None: the settings' own."""
    settings = request.settings
    optimizer = find_optimizer(settings.optimizer_type)
    is_open = not any(key in request.set_at for key in RATES)
    finds_rate = optimizer is not None and optimizer.finds_rate
    of_ia3 = is_ia3(settings.network_module, settings.network_args)
    return IA3_RATE if of_ia3 and is_open and not finds_rate else None


def images_of_rate(settings: Settings, family: Family, *, is_tiny: bool) -> int:
    """The images to an update that the rates are meant for."""
    usual = _TINY_IMAGES if is_tiny else _GUIDE_IMAGES.get(family, _OTHER_IMAGES)
    return settings.lr_batch_size or usual


def rate_factor(settings: Settings, images_per_update: int) -> float:
    """What the rates are multiplied by; `settings` have the rule and its images decided."""
    if settings.scale_lr in (None, "none") or settings.lr_batch_size is None:
        return 1.0
    ratio = images_per_update / settings.lr_batch_size
    return math.sqrt(ratio) if settings.scale_lr == "sqrt" else ratio


def scaled(rate: float, factor: float) -> float:
    """To four digits, so that it is the same on every machine and can be written down."""
    return rate if factor == 1 else float(f"{rate * factor:.4g}")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The learning rates of a run, as its options name them."""

    learning_rate: float
    unet_lr: float
    text_encoder_lr: tuple[float, ...]


def rates_for(settings: Settings, images_per_update: int) -> Rates:
    """The rates for so many images to an update."""
    factor = rate_factor(settings, images_per_update)
    text = settings.text_encoder_lr or (settings.learning_rate / 2,)
    return Rates(
        learning_rate=scaled(settings.learning_rate, factor),
        unet_lr=scaled(_unet_lr(settings), factor),
        text_encoder_lr=tuple(scaled(rate, factor) for rate in text),
    )


def _unet_lr(settings: Settings) -> float:
    return settings.learning_rate if settings.unet_lr is None else settings.unet_lr


def rate_choice(settings: Settings, images_per_update: int, *, is_set: bool) -> Choice:
    """The U-Net's rate, and how it came about. `is_set`: the user set one of the rates."""
    rate, unet = rates_for(settings, images_per_update).unet_lr, _unet_lr(settings)
    reason = msg("as set") if is_set else msg("the usual one")
    proposed = unet == IA3_RATE and is_ia3(settings.network_module, settings.network_args)
    if proposed and not is_set:
        reason = msg("LyCORIS recommends 5e-3 to 1e-2 for (IA)³")
    if rate != unet:
        rule = msg("square root of the images") if settings.scale_lr == "sqrt" else msg("images")
        reason = msg(
            "{rate} for {few} images to an update, by the {rule} for {many} (scale_lr)",
            rate=f"{unet:g}",
            few=settings.lr_batch_size,
            many=images_per_update,
            rule=rule,
        )
    elif settings.scale_lr == "none":
        reason = msg("{reason}, whatever the batch (scale_lr)", reason=reason)
    return Choice(name="learning rate", value=f"{rate:g}", reason=reason)
