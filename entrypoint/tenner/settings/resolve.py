"""Which value of each key holds, who said it, and everything that is wrong, at once.

Doors in order of strength: flags, environment, TOML file, preset, defaults.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tenner.core.errors import Problem, SettingsError, errors_in
from tenner.core.secrets import redact_shapes
from tenner.kohya import options as facts
from tenner.optimizers import with_recommended
from tenner.rules import judge
from tenner.settings.model import Settings
from tenner.settings.names import canonical, nearest, setting_names
from tenner.settings.prompt_lines import read_prompts
from tenner.settings.sources import (
    PREFIX,
    PROGRAM_VARIABLES,
    Layer,
    env_layer,
    file_layer,
    flags_layer,
    preset_layer,
)
from tenner.settings.subsets import SubsetRequest
from tenner.settings.trained_parts import trained_parts
from tenner.settings.view import view_of

DEFAULT_CONFIG = Path("training_config.toml")
"""Read from the working directory when no other file is named, as the guide calls it."""

RIVALS = {
    "max_train_epochs": "max_train_steps",
    "max_train_steps": "max_train_epochs",
    "save_every_n_epochs": "save_every_n_steps",
    "save_every_n_steps": "save_every_n_epochs",
}
"""Keys that say one thing in two ways: said at a stronger door, one takes the other's place."""

_ATTENTION = {"xformers": "xformers", "sdpa": "sdpa"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for, and who said it."""

    settings: Settings
    said_at: Mapping[str, str] = field(default_factory=dict[str, str])
    notices: tuple[Problem, ...] = ()
    subsets: tuple[SubsetRequest, ...] = ()
    """Folders of an sd-scripts dataset configuration, where one was given."""

    def source(self, key: str) -> str:
        """Where the value of `key` comes from: a file and line, a variable, a flag, `default`."""
        return self.said_at.get(key, "default")


def load_request(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    config: Path | None = None,
    preset: str | None = None,
    read_default_config: bool = True,
) -> Request:
    """Settings from all doors. Raises SettingsError with every problem of every door."""
    layers = [flags_layer(flags), env_layer(environ)]
    config = config or _named(environ, "TENNER_CONFIG")
    if config is None and read_default_config:
        config = _existing(DEFAULT_CONFIG)
    layers += [file_layer(config)] if config else []
    preset = preset or environ.get("TENNER_PRESET")
    layers += [preset_layer(preset)] if preset else []
    return resolve(layers)


def resolve(layers: Sequence[Layer]) -> Request:
    """The strongest value of each key. Raises SettingsError with every problem found."""
    problems = [problem for layer in layers for problem in layer.problems]
    layers, not_text = _as_text(layers)
    problems += not_text
    merged: dict[str, Any] = {}
    said_at: dict[str, str] = {}
    for layer in reversed(layers):
        values, where, wrong = _canonical_layer(layer)
        problems += wrong
        for key in values:
            if RIVALS.get(key) not in values:  # both at one door: told as a conflict
                merged.pop(RIVALS.get(key, ""), None)
        merged.update(values)
        said_at.update(where)
    settings_values, engine_values, unknown = _sort_out(merged, said_at)
    problems += unknown
    settings, invalid = _validated(settings_values, said_at)
    problems += invalid
    settings = settings.model_copy(update={"engine_options": engine_values})
    settings, about_optimizer = _with_recommended(settings, said_at)
    problems += about_optimizer
    settings, parts = trained_parts(settings)
    if settings.network_train_unet_only:  # also where a rate of 0 means it
        said_at.setdefault("network_train_unet_only", said_at.get("text_encoder_lr", "default"))
    problems += parts
    prompts, wrong = read_prompts(settings.sample_prompts)
    settings = settings.model_copy(update={"sample_prompts": prompts})
    problems += wrong
    problems += judge(view_of(settings, said_at))
    if errors_in(problems):
        raise SettingsError(problems=errors_in(problems))
    return Request(
        settings=settings,
        said_at=said_at,
        notices=tuple(problems),
        subsets=next((each.subsets for each in layers if each.subsets), ()),
    )


def _with_recommended(
    settings: Settings, said_at: Mapping[str, str]
) -> tuple[Settings, list[Problem]]:
    """The settings with what the optimizer's authors recommend where they are open."""
    found = with_recommended(settings.optimizer_type, settings.optimizer_args, said_at)
    if found is None:
        return settings, []
    return settings.model_copy(update=dict(found.values)), [Problem(text=found.why, level="note")]


def _as_text(layers: Sequence[Layer]) -> tuple[list[Layer], list[Problem]]:
    """The layers without values that no file can hold: bytes that are not UTF-8, and NUL."""
    problems: list[Problem] = []
    kept: list[Layer] = []
    for layer in layers:
        wrong = {key: why for key, value in layer.values.items() if (why := _not_text(value))}
        for key, why in wrong.items():
            shown = repr(layer.values[key])
            problems.append(
                Problem(
                    text=f"{key} = {shown[:80]} ({layer.said_at[key]}) holds {why}",
                    fix="rename the folder or file in plain letters, and write the name as UTF-8",
                )
            )
        values = {key: value for key, value in layer.values.items() if key not in wrong}
        kept.append(replace(layer, values=values))
    return kept, problems


def _not_text(value: Any) -> str:
    """What is in a value, or in one of a list, that is no text; empty where all is."""
    waiting = [value]
    while waiting:  # no recursion: a file may nest lists as deep as it likes
        each = waiting.pop()
        if isinstance(each, list | tuple):
            waiting.extend(cast("Sequence[Any]", each))
        elif isinstance(each, str) and any("\ud800" <= char <= "\udfff" for char in each):
            return "bytes that are not UTF-8"
        elif isinstance(each, str) and "\0" in each:
            return "a NUL byte"
    return ""


def _named(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _canonical_layer(layer: Layer) -> tuple[dict[str, Any], dict[str, str], list[Problem]]:
    """One door's values under the keys' own names; two names of one key must agree."""
    values: dict[str, Any] = {}
    said_at: dict[str, str] = {}
    problems: list[Problem] = []
    for name, value in layer.values.items():
        key, value = _as_setting(canonical(name), value)
        if key is None:
            continue
        where = layer.said_at[name]
        if key in values and str(values[key]) != str(value):
            text = f"{key} is given twice and differs: {said_at[key]} and {where}"
            problems.append(Problem(text=text, fix="keep one of them"))
        values[key], said_at[key] = value, where
    return values, said_at, problems


def _as_setting(key: str, value: Any) -> tuple[str | None, Any]:
    """sd-scripts' switches that are one choice here; a switch that is off says nothing."""
    on = str(value).strip().lower() in ("true", "1", "yes", "on")
    if key in _ATTENTION:
        return ("attention", _ATTENTION[key]) if on else (None, None)
    return key, value


def _sort_out(
    merged: Mapping[str, Any], said_at: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any], list[Problem]]:
    """Settings, options of sd-scripts, and names that nobody knows."""
    settings_values = {key: merged[key] for key in merged if key in setting_names()}
    engine_values: dict[str, Any] = {}
    problems: list[Problem] = []
    for key in (key for key in merged if key not in settings_values):
        if key not in facts.options():
            problems.append(_unknown(key, said_at[key]))
            continue
        checked = facts.check({key: merged[key]})
        engine_values.update(checked.values)
        problems += [
            replace(
                each,
                text=f"{each.text} ({said_at[key]})",
                fix=each.fix or f"correct or remove {key}",
            )
            for each in checked.problems
        ]
    return settings_values, engine_values, problems


def _unknown(key: str, where: str) -> Problem:
    """A name that nobody knows, with the known one that it most likely means."""
    variable = where.startswith(PREFIX)
    program = [name.removeprefix(PREFIX).lower() for name in PROGRAM_VARIABLES] if variable else []
    meant = nearest(key, (*setting_names(), *program, *facts.options()))
    if variable:
        text, guess = f"unknown variable {where}", f"{PREFIX}{meant.upper()}" if meant else ""
    else:
        text, guess = f"unknown key '{key}' ({where})", f"'{meant}'" if meant else ""
    if guess:
        return Problem(text=f"{text}, did you mean {guess}?", fix=f"use {guess}, or remove it")
    return Problem(text=text, fix="remove it; `tenner train --help` lists all keys")


def _validated(
    values: Mapping[str, Any], said_at: Mapping[str, str]
) -> tuple[Settings, list[Problem]]:
    """The settings, without the keys that are wrong, so that the others are judged too."""
    found: dict[str, Problem] = {}
    try:
        return Settings.model_validate(values), []
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = str(detail["loc"][0])
            found.setdefault(key, _invalid(key, values.get(key), said_at.get(key, ""), detail))
    rest = {key: value for key, value in values.items() if key not in found}
    return Settings.model_validate(rest), list(found.values())


def _invalid(key: str, value: Any, where: str, detail: ErrorDetails) -> Problem:
    wanted, fix = _wanted(key, value, detail)
    return Problem(text=f"{key} = {_shown(value)} ({where}): {wanted}", fix=fix)


def _wanted(key: str, value: Any, detail: ErrorDetails) -> tuple[str, str]:
    """What was wanted, and what to write instead."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        reason = str(context.get("error", detail["msg"]))
        return reason, f"correct {key}"
    if kind == "literal_error":
        choices = tuple(re.findall(r"'([^']*)'", str(context["expected"])))
        choices = choices or tuple(re.findall(r"\w+", str(context["expected"]).replace("or", " ")))
        meant = nearest(re.sub(r"[^a-z0-9]", "", str(value).lower()), choices)
        return f"want one of {', '.join(choices)}", (
            f'did you mean "{meant}"?' if meant else f'for example "{choices[0]}"'
        )
    bounds = {
        "greater_than_equal": "at least",
        "less_than_equal": "at most",
        "less_than": "less than",
    }
    if kind in bounds:
        limit = next(context[name] for name in ("ge", "le", "lt") if name in context)
        return f"want {bounds[kind]} {limit}", f"set {key} to {bounds[kind]} {limit}"
    kinds = {"int": "a whole number", "float": "a number", "string": "text", "tuple": "a list"}
    wanted = next((text for name, text in kinds.items() if kind.startswith(name)), "another type")
    return f"want {wanted}", f"write {key} as {wanted}"


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    text = redact_shapes(text)
    return text if len(text) <= 80 else f"{text[:77]}…"
