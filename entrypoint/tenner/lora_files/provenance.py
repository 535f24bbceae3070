"""The metadata of a LoRA file about its training, with readable names.

The entries are sd-scripts' `ss_*` and Stability AI's `modelspec.*`. They are not verified, and are
reported as the file's own claims.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, cast

MOST_TAGS = 10


def trained_on(metadata: Mapping[str, str]) -> dict[str, str]:
    """Facts of the training, by short names, the most interesting first."""
    return {name: value for name, value in _facts(metadata) if value}


def _facts(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    def first(*keys: str) -> str:
        values = (metadata.get(key, "") for key in keys)
        return next((each for each in values if each and each != "None"), "")

    yield "title", first("modelspec.title", "ss_output_name")
    yield "author", first("modelspec.author")
    yield "licence", first("modelspec.license")
    yield "trigger", first("modelspec.trigger_phrase")
    yield "base model", first("ss_sd_model_name", "modelspec.merged_from", "base_model")
    yield "base model's hash", first("ss_new_sd_model_hash", "ss_sd_model_hash")
    yield "base version", first("ss_base_model_version", "modelspec.architecture")
    yield "prediction", first("modelspec.prediction_type")
    yield "resolution", first("modelspec.resolution", "ss_resolution")
    yield "images", first("ss_num_train_images")
    yield "folders", _folders(_table(metadata.get("ss_dataset_dirs", "")))
    yield "tags", _tags(_table(metadata.get("ss_tag_frequency", "")))
    steps, epochs = first("ss_steps"), first("ss_epoch")
    yield "steps", " in ".join(each for each in (steps, epochs and f"{epochs} epochs") if each)
    yield "batch size", first("ss_total_batch_size", "ss_batch_size_per_device")
    yield "optimizer", first("ss_optimizer")
    yield "learning rate", first("ss_unet_lr", "ss_learning_rate")
    yield "text encoder's rate", first("ss_text_encoder_lr")
    yield "network", first("ss_network_module")
    yield "network arguments", first("ss_network_args")
    yield "clip skip", first("ss_clip_skip")
    yield "date", first("modelspec.date")
    yield "comment", first("ss_training_comment")


def _table(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _folders(found: Mapping[str, Any]) -> str:
    parts: list[str] = []
    for name, each in found.items():
        if isinstance(each, dict):
            entry = cast("dict[str, Any]", each)
            count, repeats = entry.get("img_count", "?"), entry.get("n_repeats", "?")
            parts.append(f"{name} ({count} images × {repeats})")
    return ", ".join(parts)


def _tags(found: Mapping[str, Any]) -> str:
    """The most frequent tags of all folders."""
    counted: Counter[str] = Counter()
    for tags in found.values():
        if isinstance(tags, dict):
            for tag, number in cast("dict[str, Any]", tags).items():
                counted[tag.strip()] += number if isinstance(number, int) else 0
    return ", ".join(f"{tag} ({number})" for tag, number in counted.most_common(MOST_TAGS))
