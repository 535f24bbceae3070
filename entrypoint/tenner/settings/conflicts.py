"""Settings that are each fine and cannot stand together; found before anything is touched."""

import os
import re
from collections.abc import Iterator, Mapping

from tenner.base.model import known_base
from tenner.dataset.buckets import widest_bucket
from tenner.errors import Problem
from tenner.settings.model import Settings

PATH_KEYS = ("base_model", "vae", "dataset", "reg_data_dir", "network_weights", "output_dir")


def conflicts(settings: Settings, said_at: Mapping[str, str]) -> list[Problem]:
    """All of them. `said_at` tells what was said by the user and what is a default."""
    return [
        *_windows_paths(settings, said_at),
        *_lengths(settings),
        *_network(settings, said_at),
        *_captions(settings),
        *_sizes(settings),
        *_names(settings),
        *_samples(settings),
    ]


def windows_path(value: str) -> bool:
    """Whether `value` is a path of a Windows PC, read on a machine that is none."""
    return os.name != "nt" and bool(re.match(r"^[A-Za-z]:[\\/]|^\\\\", value))


def _windows_paths(settings: Settings, said_at: Mapping[str, str]) -> Iterator[Problem]:
    for key in PATH_KEYS:
        value = getattr(settings, key)
        if isinstance(value, str) and windows_path(value):
            yield Problem(
                text=f"{key} = '{value}' ({said_at.get(key)}): this is on your PC, not here",
                fix=f"mount it (docker run -v '{value}:/workspace/{key}') and set"
                f" {key} = '/workspace/{key}'",
            )


def _lengths(settings: Settings) -> Iterator[Problem]:
    if settings.max_train_epochs and settings.max_train_steps:
        yield Problem(
            text="max_train_epochs and max_train_steps are both set",
            fix="keep one: epochs to see all images N times, steps for an exact length",
        )
    if settings.save_every_n_epochs and settings.save_every_n_steps:
        yield Problem(
            text="save_every_n_epochs and save_every_n_steps are both set", fix="keep one of them"
        )
    if settings.effective_batch_size and settings.gradient_accumulation_steps > 1:
        yield Problem(
            text="effective_batch_size and gradient_accumulation_steps are both set",
            fix="keep one: the first is filled up with accumulation by itself",
        )
    warmup, steps = settings.lr_warmup_steps, settings.max_train_steps
    if isinstance(warmup, int) and steps and warmup >= steps:
        yield Problem(
            text=f"lr_warmup_steps = {warmup} is the whole run of {steps} steps",
            fix=f"set lr_warmup_steps to {steps // 10} or less",
        )


def _network(settings: Settings, said_at: Mapping[str, str]) -> Iterator[Problem]:
    unet_only = settings.network_train_unet_only
    if unet_only and settings.network_train_text_encoder_only:
        yield Problem(
            text="network_train_unet_only and network_train_text_encoder_only leave nothing",
            fix="set one of them to false",
        )
    if unet_only and settings.text_encoder_lr and any(settings.text_encoder_lr):
        yield Problem(
            text="text_encoder_lr has no effect with network_train_unet_only",
            fix="remove one of them",
            level="warning",
        )
    if settings.conv_alpha is not None and settings.conv_dim is None:
        yield Problem(text="conv_alpha has no effect without conv_dim", fix="set conv_dim too")
    if settings.network_alpha == 0:
        yield Problem(
            text=f"network_alpha = 0 ({said_at.get('network_alpha')}) is the dim itself in"
            " sd-scripts and nothing elsewhere",
            fix=f"write network_alpha = {settings.network_dim}",
        )


def _captions(settings: Settings) -> Iterator[Problem]:
    cached = settings.engine_options.get("cache_text_encoder_outputs") or (
        settings.engine_options.get("cache_text_encoder_outputs_to_disk")
    )
    if not cached:
        return
    changing = {
        "shuffle_caption": settings.shuffle_caption,
        "caption_dropout_rate": settings.caption_dropout_rate > 0,
        "caption_tag_dropout_rate": settings.caption_tag_dropout_rate > 0,
    }
    for key in (name for name, on in changing.items() if on):
        yield Problem(
            text=f"cache_text_encoder_outputs encodes captions once, {key} changes them each step",
            fix=f"remove cache_text_encoder_outputs or {key}",
        )
    if not settings.network_train_unet_only and not _leaves_text_encoders_alone(settings):
        yield Problem(
            text="cache_text_encoder_outputs needs a text encoder that does not change",
            fix="set network_train_unet_only = true, or remove cache_text_encoder_outputs",
        )


def _leaves_text_encoders_alone(settings: Settings) -> bool:
    """Whether the default may do so: of SDXL, and of a base whose family is not known yet."""
    known = known_base(settings.base_model)
    other = known is not None and known.family != "sdxl"
    return not other and settings.network_train_unet_only is None and not settings.text_encoder_lr


def _sizes(settings: Settings) -> Iterator[Problem]:
    least_widest = widest_bucket(settings.resolution or (1024, 1024))
    largest = settings.max_bucket_reso or max(1024, least_widest)
    if settings.enable_bucket and settings.min_bucket_reso > largest:
        yield Problem(
            text=f"min_bucket_reso {settings.min_bucket_reso} is above max_bucket_reso {largest}",
            fix="swap them",
        )


def _names(settings: Settings) -> Iterator[Problem]:
    name = settings.output_name
    if not name.strip() or "/" in name or "\\" in name or name.strip(".") == "":
        yield Problem(
            text=f"output_name = '{name}' is not a file name",
            fix="use letters, digits, - and _; the folder goes into output_dir",
        )


def _samples(settings: Settings) -> Iterator[Problem]:
    epochs = settings.sample_at_epochs
    if not epochs:
        return
    if settings.no_samples:
        yield Problem(
            text="sample_at_epochs asks for samples and no_samples for none", fix="keep one of them"
        )
    if min(epochs) < 1:
        yield Problem(
            text=f"sample_at_epochs = {min(epochs)}: epochs count from 1", fix="remove it"
        )
    if settings.save_every_n_steps:
        yield Problem(
            text="sample_at_epochs draws from checkpoints of epochs, save_every_n_steps keeps none",
            fix="set save_every_n_epochs instead",
        )
    every = settings.save_every_n_epochs
    missed = [epoch for epoch in epochs if every and epoch % every]
    if missed:
        yield Problem(
            text=f"sample_at_epochs = {', '.join(map(str, missed))}: no checkpoint is kept there"
            f" (save_every_n_epochs = {every})",
            fix="choose multiples of it, or leave save_every_n_epochs unset",
        )
