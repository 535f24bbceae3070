"""sd-scripts' dataset configuration (`[general]`, `[[datasets]]`), read as tenner's keys. Pure.

It names folders with their repeats. What cannot be done, or would be done otherwise, is reported;
nothing is dropped in silence.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from tenner.core.addresses import Address
from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.suggest import nearest_name
from tenner.settings.imported import Imported, is_on
from tenner.settings.subsets import MOST_REPEATS, SubsetRequest

_RUN_KEYS = (
    *("batch_size", "resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso"),
    *("bucket_reso_steps", "bucket_no_upscale", "validation_seed", "validation_split"),
    "network_multiplier",
)
_SUBSET_OPTIONS = (
    *("color_aug", "face_crop_aug_range", "flip_aug", "random_crop", "shuffle_caption"),
    *("keep_tokens", "keep_tokens_separator", "secondary_separator", "caption_separator"),
    *("enable_wildcard", "token_warmup_min", "token_warmup_step"),
    *("custom_attributes", "resize_interpolation", "alpha_mask"),
    *("caption_dropout_every_n_epochs", "caption_dropout_rate", "caption_tag_dropout_rate"),
)
_FOLDER_KEYS = (
    *("image_dir", "num_repeats", "class_tokens", "is_reg", "caption_extension"),
    *("conditioning_data_dir", "metadata_file", "cache_info", "caption_prefix"),
    "caption_suffix",
)
_DATASET_KEYS = (*_RUN_KEYS, *_SUBSET_OPTIONS, *_FOLDER_KEYS, "subsets")
"""All keys that sd-scripts' own schema takes in `[general]`, datasets and subsets."""


def is_dataset_config(tables: Mapping[str, Any]) -> bool:
    return isinstance(tables.get("datasets"), list)


def import_dataset_config(tables: Mapping[str, Any]) -> Imported:
    """`[general]`, `[[datasets]]` and `[[datasets.subsets]]`, each falling back on the one above.

    tenner trains one resolution and one set of caption options in a run: tables that differ in
    these are reported, each by its key.
    """
    problems: list[Problem] = []
    general = _table(tables.get("general", {}), "general", problems)
    rows: list[dict[str, Any]] = []
    for number, each in enumerate(cast("list[Any]", tables["datasets"]), 1):
        dataset = _table(each, msg("dataset {number}", number=number), problems)
        subsets = dataset.pop("subsets", [])
        if not isinstance(subsets, list) or not subsets:
            text = msg("dataset {number} has no [[datasets.subsets]]", number=number)
            problems.append(Problem(text=text, fix=msg('add one with image_dir = "FOLDER"')))
            continue
        rows += [
            general
            | dataset
            | _table(each_subset, msg("a subset of {number}", number=number), problems)
            for each_subset in cast("list[Any]", subsets)
        ]
    subsets = tuple(_subset(row, problems) for row in rows)
    values = _shared(rows, problems)
    others = {key: value for key, value in tables.items() if key not in ("general", "datasets")}
    return Imported(
        values=values | _flat(others),
        subsets=tuple(each for each in subsets if each),
        problems=tuple(problems),
    )


def _flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Further tables and keys of the same file, as in a settings file."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= cast("dict[str, Any]", value) if isinstance(value, dict) else {key: value}
    return found


def _table(value: Any, where: str, problems: list[Problem]) -> dict[str, Any]:
    """A table of the configuration without unknown keys, which are added to `problems` with the key
    that was probably meant."""
    if not isinstance(value, dict):
        problems.append(
            Problem(
                text=msg("{where} is no table", where=where),
                fix=msg("write [[datasets]] and its keys"),
            )
        )
        return {}
    table = cast("dict[str, Any]", value)
    for key in table:
        if key not in _DATASET_KEYS:
            near = nearest_name(key, _DATASET_KEYS, least=60)
            fix = msg("did you mean {near}?", near=near) if near else msg("remove it")
            problems.append(
                Problem(text=msg("unknown key '{key}' in {where}", key=key, where=where), fix=fix)
            )
    return {key: each for key, each in table.items() if key in _DATASET_KEYS}


def _subset(row: Mapping[str, Any], problems: list[Problem]) -> SubsetRequest | None:
    """A folder of images from a `[[datasets.subsets]]` row, where general keys were filled in; None
    where it names none. Adds to `problems`."""
    folder = row.get("image_dir")
    if row.get("metadata_file"):
        text = msg(
            "{address}: captions in a metadata file are not read",
            address=Address(str(row["metadata_file"])),
        )
        problems.append(Problem(text=text, fix=msg("write them as .txt files beside the images")))
        return None
    if not isinstance(folder, str) or not folder:
        problems.append(
            Problem(text=msg("a subset has no image_dir"), fix=msg('add image_dir = "FOLDER"'))
        )
        return None
    folder = Address(folder)
    masks = _text(row.get("conditioning_data_dir"))
    repeats = row.get("num_repeats", 1)
    is_whole = isinstance(repeats, int) and not isinstance(repeats, bool)
    if not is_whole or not 1 <= repeats <= MOST_REPEATS:
        text = msg(
            "num_repeats = {repeats} of {folder}: expected a whole number from 1 to {most_repeats}",
            repeats=repeats,
            folder=folder,
            most_repeats=MOST_REPEATS,
        )
        problems.append(Problem(text=text, fix=msg("set num_repeats = 10, or remove it")))
        repeats = 1
    if is_on(row.get("cache_info", False)):
        text = msg("cache_info of {folder}: tenner reads every image anew", folder=folder)
        problems.append(Problem(text=text, fix=msg("remove it"), level="note"))
    return SubsetRequest(
        image_dir=folder,
        num_repeats=repeats,
        class_tokens=_text(row.get("class_tokens")),
        is_reg=is_on(row.get("is_reg", False)),
        caption_extension=_text(row.get("caption_extension")),
        mask_dir=Address(masks) if masks else None,
        caption_prefix=_written(row.get("caption_prefix")),
        caption_suffix=_written(row.get("caption_suffix")),
    )


def _shared(rows: list[dict[str, Any]], problems: list[Problem]) -> dict[str, Any]:
    """Options that hold for the whole run: those in which all tables agree.

    One that only the training tables have is taken for the regularisation images too, and reported.
    """
    found: dict[str, Any] = {}
    train = [row for row in rows if not is_on(row.get("is_reg"))]
    reg = [row for row in rows if is_on(row.get("is_reg"))]
    for key in (*_RUN_KEYS, *_SUBSET_OPTIONS):
        train_values, reg_values = _values(train, key), _values(reg, key)
        if len(train_values) > 1 or not reg_values <= {*train_values, "null"}:
            values = sorted(train_values | reg_values)
            shown = " and ".join("not set" if each == "null" else each for each in values)
            text = msg("{key} differs between the datasets: {shown}", key=key, shown=shown)
            fix = msg("give all the same value; tenner trains with one")
            problems.append(Problem(text=text, fix=fix))
            continue
        value = next(iter(train_values), "null")
        if value == "null":
            continue
        found[key] = json.loads(value)
        if "null" in reg_values:
            text = msg(
                "{key} = {value} holds for the regularisation images too", key=key, value=value
            )
            problems.append(
                Problem(text=text, fix=msg("tenner trains with one value"), level="note")
            )
    if any(row.get("conditioning_data_dir") for row in rows):
        found["alpha_mask"] = True  # the working copy carries masks in the alpha channel
    if found.pop("custom_attributes", None):
        text = msg("custom_attributes have no effect on a LoRA of Stable Diffusion")
        problems.append(Problem(text=text, fix=msg("remove them"), level="warning"))
    if found.pop("network_multiplier", 1.0) != 1.0:
        problems.append(Problem(text=msg("network_multiplier is not used"), fix=msg("remove it")))
    return found


def _values(rows: list[dict[str, Any]], key: str) -> set[str]:
    """The values of `key`, as JSON, so that they can be compared; `null` for not set."""
    return {json.dumps(row.get(key), sort_keys=True) for row in rows}


def _written(value: Any) -> str | None:
    """A text that may be empty on purpose: then the general one does not hold."""
    return None if value is None else str(value)


def _text(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None
