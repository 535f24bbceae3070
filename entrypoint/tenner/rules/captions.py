"""Rules of captions and the text encoders."""

from tenner.core.messages import msg
from tenner.families import FAMILIES
from tenner.rules.rule import SD_SCRIPTS, Rule
from tenner.rules.view import Needs, View

CACHES = ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk")
_MOST_LAYERS = {"sd1": 12, "sd2": 23, "sdxl": 12}
"""Layers of the smallest text encoder; SD 2.x's last of 24 is cut off by its makers."""


def _cached_captions_change(name: str) -> Rule:
    return Rule(
        when=lambda view: view.any_on(*CACHES) and view.on(name),
        text=msg(
            "cache_text_encoder_outputs encodes captions once, {name} changes them at each step",
            name=name,
        ),
        fix=msg("remove cache_text_encoder_outputs or {name}", name=name),
        needs="settings",
    )


def leaves_text_encoders_alone(view: View) -> bool:
    """Whether the settings do, or the default may: SDXL's, or that of a family not known yet."""
    value = view.values.get("network_train_unet_only")
    if value is not None:
        return bool(value)
    if view.on("network_train_text_encoder_only"):
        return False
    default = view.family is None or FAMILIES[view.family].defaults.network_train_unet_only.value
    return default and not any(view.numbers("text_encoder_lr"))


def _cached_text_encoders_change(needs: Needs) -> Rule:
    return Rule(
        when=lambda view: view.any_on(*CACHES) and not leaves_text_encoders_alone(view),
        text=msg("cache_text_encoder_outputs needs text encoders that do not change"),
        fix=msg("set network_train_unet_only = true, or remove cache_text_encoder_outputs"),
        needs=needs,
    )


RULES = (
    _cached_captions_change("shuffle_caption"),
    _cached_captions_change("caption_dropout_rate"),
    _cached_captions_change("caption_tag_dropout_rate"),
    _cached_captions_change("token_warmup_step"),
    _cached_captions_change("caption_dropout_every_n_epochs"),  # only without effect in sd-scripts
    _cached_captions_change("enable_wildcard"),  # likewise: one draw for the whole run
    _cached_text_encoders_change("settings"),
    _cached_text_encoders_change("trainer"),  # of a base whose family is not in its name
    Rule(
        when=lambda view: view.family in ("sd1", "sd2") and view.any_on(*CACHES),
        text=msg("cache_text_encoder_outputs is for SDXL only"),
        fix=msg("remove it: SD 1.x and 2.x have no such option in sd-scripts"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: (
            view.any_on("keep_tokens", "keep_tokens_separator")
            and not view.any_on("shuffle_caption", "caption_tag_dropout_rate", "token_warmup_step")
        ),
        text=msg("keep_tokens has no effect: nothing shuffles or drops tags"),
        fix=msg("set shuffle_caption = true, or remove keep_tokens"),
        level="warning",
        needs="settings",
    ),
    Rule(
        when=lambda view: view.family == "sdxl" and view.values.get("clip_skip") is not None,
        text=msg("clip_skip has no effect on SDXL, which always takes the last layer but one"),
        fix=msg("remove clip_skip"),
        level="warning",
        needs="trainer",
    ),
    Rule(
        when=lambda view: view.family == "sd2" and view.values.get("clip_skip") is not None,
        text=msg("clip_skip is for SD 1.x: SD 2.x was trained on its last layer but one"),
        fix=msg("remove clip_skip"),
        level="warning",
        needs="trainer",
    ),
    Rule(
        when=lambda view: (
            view.family in _MOST_LAYERS and view.number("clip_skip") > _MOST_LAYERS[view.family]
        ),
        text=lambda view: msg(
            "clip_skip = {clip_skip}: the text encoder has {most_layers} layers",
            clip_skip=view.text("clip_skip"),
            most_layers=_MOST_LAYERS[view.family or "sd1"],
        ),
        fix=msg("set clip_skip to 1 or 2, or remove it"),
        needs="trainer",
    ),
)
