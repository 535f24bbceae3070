"""Settings that were left open, decided by the family of the base, each with its reason.

Pure. The values and their sources stand in `families`.
"""

from dataclasses import replace
from typing import Any

from tenner.base.model import Base
from tenner.base.prediction import PREDICTION_NAMES, Prediction
from tenner.core.family import Family
from tenner.core.messages import msg
from tenner.families import FAMILIES, TINY_STEPS, Default
from tenner.kohya.buckets import widest_bucket
from tenner.kohya.networks import IA3, is_drawn, is_ia3
from tenner.optimizers import find_optimizer
from tenner.planning.batch_choice import Choice
from tenner.planning.learning_rate import (
    decided_rule,
    images_of_rate,
    proposed_rate,
    scaled,
)
from tenner.rules.written import keyword_arguments
from tenner.settings import Request, Settings

_IA3_REASON = msg("(IA)³ trains a factor for each output or input of a module")
_LEAST_WIDEST = 1024
"""sd-scripts' own default of max_bucket_reso, and the guide's."""


def with_family_defaults(
    request: Request,
    family: Family,
    resolution: tuple[int, int],
    *,
    prediction: Prediction | None = "epsilon",
    is_tiny: bool = False,
) -> Request:
    """The request with all that depends on the family decided; what the user set stays.

    Idempotent. `prediction` is the base's.
    """
    request = _with_ia3(request)
    settings, own = request.settings, FAMILIES[family].defaults
    steps = TINY_STEPS if is_tiny else own.bucket_reso_steps.value
    # Of (IA)³ that is known by a file's network only, another one was decided before.
    text_rates = None if proposed_rate(request) else settings.text_encoder_lr
    largest = settings.max_bucket_reso or max(_LEAST_WIDEST, widest_bucket(resolution))
    decided: dict[str, Any] = {
        "min_bucket_reso": min(settings.min_bucket_reso, *resolution),
        "max_bucket_reso": max(largest, *resolution),
        "bucket_reso_steps": settings.bucket_reso_steps or steps,
        "network_train_unet_only": _unet_only(settings, family),
        "text_encoder_lr": text_rates or (_text_encoder_lr(settings, family),),
        "noise_offset": _noise_offset(settings, family, prediction),
        "engine_options": {
            **{name: each.value for name, each in FAMILIES[family].options.items()},
            **settings.engine_options,
        },
        **_drawing(request, family),
        **_rank_of(request, family),
        "scale_lr": decided_rule(request),
        "lr_batch_size": images_of_rate(settings, family, is_tiny=is_tiny),
    }
    return replace(request, settings=settings.model_copy(update=decided))


def _with_ia3(request: Request) -> Request:
    """What (IA)³ needs where it is open: its preset, and a larger rate."""
    settings = request.settings
    if not is_ia3(settings.network_module, settings.network_args):
        return request
    decided: dict[str, Any] = {"learning_rate": proposed_rate(request) or settings.learning_rate}
    if "preset" not in keyword_arguments(settings.network_args):
        decided["network_args"] = (*settings.network_args, f"preset={IA3}")
    return replace(request, settings=settings.model_copy(update=decided))


def _drawing(request: Request, family: Family) -> dict[str, Any]:
    """Steps and guidance of the grid where they are open and the family has its own."""
    drawing = FAMILIES[family].drawing
    if not is_drawn(request.settings.network_module, FAMILIES[family]):
        return {"no_samples": True}
    if FAMILIES[family].transformer is None:
        return {}
    own = {"sample_steps": drawing.steps, "sample_guidance": drawing.guidance}
    return {key: value for key, value in own.items() if request.source(key) == "default"}


def _rank_of(request: Request, family: Family) -> dict[str, Any]:
    """A transformer's rank where it is open, and half of it as alpha, as the guide has it."""
    keys = ("network_dim", "network_alpha", "network_weights")
    if FAMILIES[family].transformer is None or any(request.source(k) != "default" for k in keys):
        return {}
    rank = FAMILIES[family].defaults.rank.value
    return {"network_dim": rank, "network_alpha": rank / 2}


def family_choices(request: Request, base: Base, *, factor: float = 1.0) -> tuple[Choice, ...]:
    """What the family decided, or the user, as a plan shows it. `request` has it decided, and rates
    are multiplied by `factor`."""
    settings, own = request.settings, FAMILIES[base.family].defaults

    def choice(name: str, value: str, key: str, default: Default[Any]) -> Choice:
        set_by_user = request.source(key) != "default"
        return Choice(
            name=name, value=value, reason=msg("as set") if set_by_user else default.reason
        )

    assert settings.text_encoder_lr is not None
    rates = ", ".join(f"{scaled(rate, factor):g}" for rate in settings.text_encoder_lr)
    text = choice("text encoder", rates, "text_encoder_lr", own.text_encoder_lr_share)
    optimizer = find_optimizer(settings.optimizer_type)
    if optimizer and not optimizer.groups_may_differ and "as set" not in text.reason:
        text = replace(
            text, reason=msg("the U-Net's: {name} takes one rate for all", name=optimizer.name)
        )
    if settings.network_train_unet_only:
        frozen = own.network_train_unet_only
        text = choice("text encoder", "not trained", "network_train_unet_only", frozen)
    sides = f"{settings.min_bucket_reso} to {settings.max_bucket_reso}"
    steps = f"{settings.bucket_reso_steps} pixels"
    rank = choice("rank", _rank(settings), "network_dim", own.rank)
    if settings.network_weights:
        rank = replace(rank, reason=msg("the network_weights' own"))
    if is_ia3(settings.network_module, settings.network_args):
        rank = Choice(name="rank", value="none", reason=_IA3_REASON)
    first = (
        _prediction(base),
        _sides(request, sides),
        choice("bucket steps", steps, "bucket_reso_steps", _steps(base, own.bucket_reso_steps)),
        rank,
        *_preset(settings),
        text,
    )
    if base.facts.transformer:
        proposed = base.facts.options.items()
        return (
            *first,
            *(choice(key, _shown(settings, key), key, default) for key, default in proposed),
        )
    offset = "none" if not settings.noise_offset else f"{settings.noise_offset:g}"
    skip = "none" if settings.clip_skip is None else str(settings.clip_skip)
    vae = "in float32" if own.no_half_vae.value else msg("in the run's precision")
    return (
        *first,
        choice("noise offset", offset, "noise_offset", _offset_reason(base, own.noise_offset)),
        choice("clip skip", skip, "clip_skip", own.clip_skip),
        choice("VAE", vae, "no_half_vae", own.no_half_vae),
    )


def _preset(settings: Settings) -> tuple[Choice, ...]:
    if not is_ia3(settings.network_module, settings.network_args):
        return ()
    preset = str(keyword_arguments(settings.network_args).get("preset"))
    reason = msg("LyCORIS' own for (IA)³: keys, values and what an MLP puts out")
    return (Choice(name="preset", value=preset, reason=reason if preset == IA3 else msg("as set")),)


def _shown(settings: Settings, key: str) -> str:
    value = settings.engine_options[key]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rank(settings: Settings) -> str:
    return f"{settings.network_dim}, alpha {settings.network_alpha:g}"


def _prediction(base: Base) -> Choice:
    value = PREDICTION_NAMES[base.prediction or "epsilon"]
    value += msg(", zero terminal SNR") if base.zero_terminal_snr else ""
    if base.prediction_from:
        return Choice(
            name="prediction",
            value=value,
            reason=msg("by {prediction_from}", prediction_from=base.prediction_from),
        )
    return Choice(name="prediction", value=value, reason=msg("assumed, as nothing states it"))


def _sides(request: Request, sides: str) -> Choice:
    if not request.settings.enable_bucket:
        return Choice(name="bucket sides", value="one size", reason=msg("as set"))
    if request.source("max_bucket_reso") != "default":
        return Choice(name="bucket sides", value=sides, reason=msg("as set"))
    reason = msg("pictures up to 4:1 keep the whole area of the resolution")
    return Choice(name="bucket sides", value=sides, reason=reason)


def _text_encoder_lr(settings: Settings, family: Family) -> float:
    """A share of the learning rate; the U-Net's own for an optimizer that takes one rate only."""
    optimizer = find_optimizer(settings.optimizer_type)
    if optimizer and not optimizer.groups_may_differ:
        return settings.learning_rate if settings.unet_lr is None else settings.unet_lr
    return settings.learning_rate * FAMILIES[family].defaults.text_encoder_lr_share.value


def _unet_only(settings: Settings, family: Family) -> bool:
    if settings.network_train_unet_only is not None:
        return settings.network_train_unet_only
    if settings.network_train_text_encoder_only:
        return False
    if settings.text_encoder_lr and any(settings.text_encoder_lr):
        return False
    return FAMILIES[family].defaults.network_train_unet_only.value


def _noise_offset(
    settings: Settings, family: Family, prediction: Prediction | None
) -> float | None:
    """None with v-prediction, which needs no such help (arXiv 2305.08891), or with other noise."""
    if settings.noise_offset is not None or prediction != "epsilon":
        return settings.noise_offset
    if settings.engine_options.get("multires_noise_iterations"):
        return None  # sd-scripts takes one of the two
    return FAMILIES[family].defaults.noise_offset.value


def _offset_reason(base: Base, default: Default[float | None]) -> Default[float | None]:
    if base.prediction != "v_prediction":
        return default
    return replace(default, reason=msg("a base that predicts v needs none"))


def _steps(base: Base, default: Default[int]) -> Default[int]:
    return replace(default, reason=msg("the tiny base's own")) if base.is_tiny else default
