"""Files made for other tools, read as tenner's keys: kohya_ss' GUI, sd-scripts' datasets. Pure.

The GUI saves its form (JSON), where empty text and 0 often mean "not set", and writes a training
TOML from it, whose keys are sd-scripts' own. A dataset configuration (`[general]`,
`[[datasets]]`) names folders with their repeats. What cannot be done, or would be done otherwise,
is reported; nothing is dropped in silence.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tenner.core.addresses import Address
from tenner.core.errors import Problem
from tenner.core.json_text import parse_json
from tenner.core.messages import msg
from tenner.core.suggest import nearest_name
from tenner.kohya import options as facts
from tenner.settings.subsets import MOST_REPEATS, SubsetRequest


@dataclass(frozen=True, kw_only=True)
class Imported:
    """`values` by tenner's or sd-scripts' names, folders of a dataset configuration, and all that
    is wrong or done otherwise (`note` and `warning`)."""

    values: Mapping[str, Any]
    subsets: tuple[SubsetRequest, ...] = ()
    problems: tuple[Problem, ...] = ()


def import_json(text: str, *, name: str) -> Imported:
    """A JSON file: the GUI's form, a dataset configuration, or plain keys."""
    try:
        tables = parse_json(text.removeprefix("\ufeff"))
    except ValueError as error:
        problem = Problem(
            text=msg("{name} is not JSON: {error}", name=name, error=error),
            fix=msg("export it again, or use TOML"),
        )
        return Imported(values={}, problems=(problem,))
    if not isinstance(tables, dict):
        problem = Problem(
            text=msg("{name} holds no keys", name=name),
            fix=msg('a settings file is {{"key": value, …}}'),
        )
        return Imported(values={}, problems=(problem,))
    found = cast("dict[str, Any]", tables)
    return import_tables(found) or Imported(values=found)


def import_tables(tables: Mapping[str, Any]) -> Imported | None:
    """What another tool's tables say; None where they are an ordinary settings file."""
    if is_dataset_config(tables):
        return import_dataset_config(tables)
    if is_gui_form(tables):
        return import_gui_form(tables)
    return None


def is_dataset_config(tables: Mapping[str, Any]) -> bool:
    return isinstance(tables.get("datasets"), list)


def is_gui_form(tables: Mapping[str, Any]) -> bool:
    """The GUI's form has keys that only it has."""
    return any(name in tables for name in ("LoRA_type", "model_list", "max_resolution"))


# The GUI's form


def import_gui_form(form: Mapping[str, Any]) -> Imported:
    """The form of kohya_ss' LoRA tab."""
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for key, value in form.items():
        if _is_set(key, value):
            values |= _form_field(key, value, form, problems)
    values |= _learning_rates(form) | _network(form, problems) | _more_arguments(form, problems)
    values |= _warmup(form)
    return Imported(values=values, problems=tuple(problems))


def _is_set(key: str, value: Any) -> bool:
    if isinstance(value, str):
        value = value.strip()
        return value not in ("", "None") and not (key in _ZERO_IS_OFF and _number(value) == 0)
    if value is None or value is False or value == []:
        return False
    return not (key in _ZERO_IS_OFF and _number(value) == 0)


def _form_field(
    key: str, value: Any, form: Mapping[str, Any], problems: list[Problem]
) -> dict[str, Any]:
    """One field under the key that it has here; nothing where it says nothing to a run."""
    if key in _FORM_NAMES:
        return {_FORM_NAMES[key]: value}
    if key in _FORM_ELSEWHERE or (key in _FORM_SDXL and not _on(form.get("sdxl"))):
        return {}
    if key in _FORM_SDXL:
        return {_FORM_SDXL[key]: value}
    if key in _FORM_PROBLEMS:
        problems.append(
            Problem(
                text=msg("{key} of the GUI is left out", key=key),
                fix=_FORM_PROBLEMS[key],
                level="note",
            )
        )
        return {}
    if key == "xformers":
        return {"attention": value} if value in ("xformers", "sdpa") else {}
    if key == "clip_skip" and _number(value) == 1:
        return {}
    if key == "use_wandb":
        return {"log_with": "wandb"} if _on(value) else {}
    if key == "sample_prompts":
        return {"sample_prompts": _prompts(str(value))}
    if key in ("optimizer_args", "lr_scheduler_args"):
        return {key: value if isinstance(value, list) else str(value).split()}
    if key in facts.OWNED:
        problems.append(
            Problem(
                text=msg("{key} of the GUI is left out", key=key),
                fix=facts.OWNED[key],
                level="note",
            )
        )
        return {}
    if key in facts.options() or key in _TENNERS:
        return {key: value}
    return {}


def _learning_rates(form: Mapping[str, Any]) -> dict[str, Any]:
    """The GUI trains only the part whose rate is not 0; with both 0, learning_rate is for both."""
    encoder, unet = _number(form.get("text_encoder_lr")), _number(form.get("unet_lr"))
    found: dict[str, Any] = {}
    if encoder:
        found["text_encoder_lr"] = [encoder]
    if unet:
        found["unet_lr"] = unet
    if unet and not encoder and "text_encoder_lr" in form:
        found["network_train_unet_only"] = True
    if encoder and not unet and "unet_lr" in form:
        found["network_train_text_encoder_only"] = True
    return found


def _network(form: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    kind = str(form.get("LoRA_type", "Standard"))
    if kind not in ("Standard", "Kohya LoCon", "LyCORIS/LoCon"):
        problems.append(
            Problem(
                text=msg("LoRA_type = {kind} is another kind of network than LoRA", kind=kind),
                fix=msg('choose LoRA_type "Standard", or "Kohya LoCon" for the convolutions too'),
            )
        )
    found: dict[str, Any] = {}
    if kind in ("Kohya LoCon", "LyCORIS/LoCon"):
        found = {key: form[key] for key in ("conv_dim", "conv_alpha") if _number(form.get(key))}
    args = [
        f"{key}={form[key]}" for key in ("rank_dropout", "module_dropout") if _number(form.get(key))
    ]
    return found | ({"network_args": args} if args else {})


def _warmup(form: Mapping[str, Any]) -> dict[str, Any]:
    """`lr_warmup` is a percentage of all steps; `lr_warmup_steps` overrules it."""
    steps, percent = _number(form.get("lr_warmup_steps")), _number(form.get("lr_warmup"))
    if steps:
        return {"lr_warmup_steps": int(steps) if steps >= 1 else steps}
    if "lr_warmup" in form or "lr_warmup_steps" in form:
        return {"lr_warmup_steps": percent / 100 if percent else 0}
    return {}


def _more_arguments(form: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """`additional_parameters` is a piece of a command line."""
    found: dict[str, Any] = {}
    try:
        words = shlex.split(str(form.get("additional_parameters") or ""))
    except ValueError as error:
        fix = msg("write options as keys of their own")
        problems.append(
            Problem(text=msg("additional_parameters cannot be read: {error}", error=error), fix=fix)
        )
        return {}
    key = ""
    for word in words:
        if word.startswith("--"):
            key, equals, value = word.removeprefix("--").partition("=")
            found[key] = value if equals else True
        elif key and found[key] is True:
            found[key] = word
        elif key:
            found[key] = f"{found[key]} {word}"
    return found


def _prompts(text: str) -> list[str]:
    """The prompts with what stands behind `--` in a line."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _on(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes", "on")


# A dataset configuration


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
            "num_repeats = {repeats} of {folder}: want a whole number from 1 to {most_repeats}",
            repeats=repeats,
            folder=folder,
            most_repeats=MOST_REPEATS,
        )
        problems.append(Problem(text=text, fix=msg("set num_repeats = 10, or remove it")))
        repeats = 1
    if _on(row.get("cache_info", False)):
        text = msg("cache_info of {folder}: tenner reads every image anew", folder=folder)
        problems.append(Problem(text=text, fix=msg("remove it"), level="note"))
    return SubsetRequest(
        image_dir=folder,
        num_repeats=repeats,
        class_tokens=_text(row.get("class_tokens")),
        is_reg=_on(row.get("is_reg", False)),
        caption_extension=_text(row.get("caption_extension")),
        mask_dir=Address(masks) if masks else None,
        caption_prefix=_written(row.get("caption_prefix")),
        caption_suffix=_written(row.get("caption_suffix")),
    )


def _shared(rows: list[dict[str, Any]], problems: list[Problem]) -> dict[str, Any]:
    """Options that hold for the whole run: those in which all tables agree.

    One that only the training tables have is taken for the regularisation images too, and said.
    """
    found: dict[str, Any] = {}
    train = [row for row in rows if not _on(row.get("is_reg"))]
    reg = [row for row in rows if _on(row.get("is_reg"))]
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

_FORM_NAMES: Mapping[str, str] = {
    "epoch": "max_train_epochs",
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "lora_network_weights": "network_weights",
}
_FORM_SDXL: Mapping[str, str] = {
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
    "sdxl_no_half_vae": "no_half_vae",
}
_FORM_ELSEWHERE = frozenset(
    (
        *("LoRA_type", "LyCORIS_preset", "model_list", "sdxl", "additional_parameters"),
        *("text_encoder_lr", "unet_lr", "lr_warmup", "lr_warmup_steps"),
        *("network_args", "conv_dim", "conv_alpha", "rank_dropout", "module_dropout"),
        *("noise_offset_type", "num_cpu_threads_per_process", "num_machines", "multi_gpu"),
        *("gpu_ids", "main_process_port", "save_as_bool", "dynamo_backend", "dynamo_mode"),
        *("sample_sampler", "logging_dir", "save_state"),
        *("save_state_on_train_end", "dataset_config"),
    )
)
"""Fields that are read with others, or that say how the GUI starts a program."""
_FORM_PROBLEMS: Mapping[str, str] = {
    "stop_text_encoder_training": msg(
        "set network_train_unet_only to leave the text encoder alone"
    ),
    "sample_every_n_epochs": msg("set sample_at_epochs to see a grid during the run"),
    "sample_every_n_steps": msg("set sample_at_epochs to see a grid during the run"),
}
_TENNERS = frozenset(("num_processes", "num_repeats"))
_ZERO_IS_OFF = frozenset(
    (
        *("adaptive_noise_scale", "ip_noise_gamma", "keep_tokens", "max_train_epochs"),
        *("max_train_steps", "min_snr_gamma", "multires_noise_iterations", "network_dropout"),
        *("multires_noise_discount", "noise_offset", "sample_every_n_epochs", "seed"),
        *("sample_every_n_steps", "save_every_n_epochs", "save_every_n_steps", "vae_batch_size"),
        *("save_last_n_epochs", "save_last_n_epochs_state", "save_last_n_steps", "min_timestep"),
        *("save_last_n_steps_state", "scale_weight_norms", "stop_text_encoder_training"),
        *("v_pred_like_loss", "network_alpha", "caption_dropout_every_n_epochs", "epoch"),
        *("caption_dropout_rate", "lr_scheduler_num_cycles", "lr_scheduler_power"),
        "num_processes",
    )
)
"""Numbers of the form that the GUI does not pass on when they are 0."""
