"""The form of kohya_ss' GUI (its JSON file), read as tenner's keys. Pure.

Empty text and 0 often mean "not set" there. What cannot be done, or would be done otherwise, is
reported; nothing is dropped in silence.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from tenner.core.errors import Problem
from tenner.core.messages import Message, msg
from tenner.kohya import options as facts
from tenner.settings.imported import Imported, is_on

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
"""Fields that are read with others, or that are about how the GUI starts a program."""
_FORM_PROBLEMS: Mapping[str, Message] = {
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


def is_gui_form(tables: Mapping[str, Any]) -> bool:
    """The GUI's form has keys that only it has."""
    return any(name in tables for name in ("LoRA_type", "model_list", "max_resolution"))


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
    """Whether a field of the form has a value: empty text, false and, for some fields, 0 mean that
    it was not set."""
    if isinstance(value, str):
        value = value.strip()
        return value not in ("", "None") and not (key in _ZERO_IS_OFF and _number(value) == 0)
    if value is None or value is False or value == []:
        return False
    return not (key in _ZERO_IS_OFF and _number(value) == 0)


def _form_field(
    key: str, value: Any, form: Mapping[str, Any], problems: list[Problem]
) -> dict[str, Any]:
    """One field under the key that it has here; nothing where it has no effect on a run."""
    if key in _FORM_NAMES:
        return {_FORM_NAMES[key]: value}
    if key in _FORM_ELSEWHERE or (key in _FORM_SDXL and not is_on(form.get("sdxl"))):
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
        return {"log_with": "wandb"} if is_on(value) else {}
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
    """The kind of network by `LoRA_type`, with its ranks and dropouts. Adds to `problems`."""
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
    """The prompts, with the options after `--` in a line."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
