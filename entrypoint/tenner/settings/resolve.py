"""The effective value of each key, where it was set, and everything that is wrong, at once.

Sources in order of strength: flags, environment, TOML file, preset, defaults.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tenner.core.errors import Problem, SettingsError, errors_in
from tenner.core.messages import Message, as_message, msg
from tenner.core.secrets import redact_shapes
from tenner.kohya import options as facts
from tenner.optimizers import with_recommended
from tenner.rules import judge
from tenner.settings.model import Settings
from tenner.settings.names import PREFIX, PROGRAM_VARIABLES, nearest, setting_names
from tenner.settings.prompt_lines import read_prompts
from tenner.settings.subsets import SubsetRequest
from tenner.settings.trained_parts import trained_parts
from tenner.settings.view import view_of

if TYPE_CHECKING:
    from tenner.settings.sources import Source

DEFAULT_CONFIG = Path("training_config.toml")
"""Read from the working directory when no other file is named, as the guide calls it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user requested, and in which source."""

    settings: Settings
    set_at: Mapping[str, str] = field(default_factory=dict[str, str])
    notices: tuple[Problem, ...] = ()
    subsets: tuple[SubsetRequest, ...] = ()
    """Folders of an sd-scripts dataset configuration, where one was given."""

    def source(self, key: str) -> str:
        """Where the value of `key` comes from: a file and line, a variable, a flag, `default`."""
        return self.set_at.get(key, "default")


def load_request(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    config: Path | None = None,
    preset: str | None = None,
    read_default_config: bool = True,
) -> Request:
    """Settings from all sources. Raises SettingsError with every problem of every source."""
    # Loaded by those who read settings: pydantic-settings would make `--help` slower.
    from tenner.settings.sources import FileSource, FlagsSource, PresetSource, VariablesSource

    sources: list[Source] = [FlagsSource(flags), VariablesSource(environ)]
    config = config or _named(environ, "TENNER_CONFIG")
    if config is None and read_default_config:
        config = _existing(DEFAULT_CONFIG)
    sources += [FileSource(config)] if config else []
    preset = preset or environ.get("TENNER_PRESET")
    sources += [PresetSource(preset)] if preset else []
    return resolve(sources)


def resolve(sources: Sequence["Source"]) -> Request:
    """The strongest value of each key. Raises SettingsError with every problem found."""
    problems = [problem for source in sources for problem in source.problems]
    set_at: dict[str, str] = {}
    for source in reversed(sources):
        set_at.update(source.origins)
    engine_values, unknown = _only_sd_scripts(sources, set_at)
    problems += unknown
    settings, invalid = _validated(sources, set_at)
    problems += invalid
    settings = settings.model_copy(update={"engine_options": engine_values})
    settings, about_optimizer = _with_recommended(settings, set_at)
    problems += about_optimizer
    settings, parts = trained_parts(settings)
    if settings.network_train_unet_only:  # also where a rate of 0 implies it
        set_at.setdefault("network_train_unet_only", set_at.get("text_encoder_lr", "default"))
    problems += parts
    prompts, wrong = read_prompts(settings.sample_prompts)
    settings = settings.model_copy(update={"sample_prompts": prompts})
    problems += wrong
    problems += judge(view_of(settings, set_at))
    if errors_in(problems):
        raise SettingsError(problems=errors_in(problems))
    return Request(
        settings=settings,
        set_at=set_at,
        notices=tuple(problems),
        subsets=next((each.layer.subsets for each in sources if each.layer.subsets), ()),
    )


def _with_recommended(
    settings: Settings, set_at: Mapping[str, str]
) -> tuple[Settings, list[Problem]]:
    """The settings with what the optimizer's authors recommend where they are open."""
    found = with_recommended(settings.optimizer_type, settings.optimizer_args, set_at)
    if found is None:
        return settings, []
    return settings.model_copy(update=dict(found.values)), [Problem(text=found.why, level="note")]


def _named(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _only_sd_scripts(
    sources: Sequence["Source"], origins: Mapping[str, str]
) -> tuple[dict[str, Any], list[Problem]]:
    """Options that only sd-scripts has, and unknown names."""
    given: dict[str, Any] = {}
    for source in reversed(sources):
        given.update({k: v for k, v in source.values.items() if k not in setting_names()})
    engine_values: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, value in given.items():
        if key not in facts.options():
            problems.append(_unknown(key, origins[key]))
            continue
        checked = facts.check({key: value})
        engine_values.update(checked.values)
        problems += [
            replace(
                each,
                text=msg("{text} ({origins})", text=each.text, origins=origins[key]),
                fix=each.fix or msg("correct or remove {key}", key=key),
            )
            for each in checked.problems
        ]
    return engine_values, problems


def _unknown(key: str, where: str) -> Problem:
    """An unknown name, with the known one that was most likely meant."""
    variable = where.startswith(PREFIX)
    program = [name.removeprefix(PREFIX).lower() for name in PROGRAM_VARIABLES] if variable else []
    suggestion = nearest(key, (*setting_names(), *program, *facts.options()))
    if variable:
        text, guess = (
            msg("unknown variable {where}", where=where),
            msg("{prefix}{suggestion}", prefix=PREFIX, suggestion=suggestion.upper())
            if suggestion
            else "",
        )
    else:
        text, guess = (
            msg("unknown key '{key}' ({where})", key=key, where=where),
            msg("'{suggestion}'", suggestion=suggestion) if suggestion else "",
        )
    if guess:
        return Problem(
            text=msg("{text}, did you mean {guess}?", text=text, guess=guess),
            fix=msg("use {guess}, or remove it", guess=guess),
        )
    return Problem(text=text, fix=msg("remove it; `tenner train --help` lists all keys"))


def _validated(
    sources: Sequence["Source"], origins: Mapping[str, str]
) -> tuple[Settings, list[Problem]]:
    """The settings, without the keys that are wrong, so that the others are judged too: pydantic
    makes no model of a part of the values."""
    from tenner.settings.sources import LoadedSettings

    found: dict[str, Problem] = {}
    try:
        loaded = LoadedSettings(sources=sources)
        # A plain copy, which holds no reference to the sources.
        return Settings.model_construct(**dict(loaded)), []
    except ValidationError as error:
        merged = {key: value for each in reversed(sources) for key, value in each.given.items()}
        for detail in error.errors(include_url=False):
            key = str(detail["loc"][0])
            found.setdefault(key, _invalid(key, merged[key], origins[key], detail))
    rest = {key: value for key, value in merged.items() if key not in found}
    return Settings.model_validate(rest), list(found.values())


def _invalid(key: str, value: Any, where: str, detail: ErrorDetails) -> Problem:
    """A value that pydantic refused, as a problem with its source and its fix."""
    expected, fix = _expected(key, value, detail)
    return Problem(
        text=msg(
            "{key} = {shown} ({where}): {expected}",
            key=key,
            shown=_shown(value),
            where=where,
            expected=expected,
        ),
        fix=fix,
    )


def _expected(key: str, value: Any, detail: ErrorDetails) -> tuple[Message, Message]:
    """What was expected, and what to write instead."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        reason = as_message(str(context.get("error", detail["msg"])))
        return reason, msg("correct {key}", key=key)
    if kind == "literal_error":
        choices = tuple(re.findall(r"'([^']*)'", str(context["expected"])))
        choices = choices or tuple(re.findall(r"\w+", str(context["expected"]).replace("or", " ")))
        suggestion = nearest(re.sub(r"[^a-z0-9]", "", str(value).lower()), choices)
        return msg("expected one of {choices}", choices=", ".join(choices)), (
            msg('did you mean "{suggestion}"?', suggestion=suggestion)
            if suggestion
            else msg('for example "{choices}"', choices=choices[0])
        )
    bounds = {
        "greater_than_equal": "at least",
        "less_than_equal": "at most",
        "less_than": "less than",
    }
    if kind in bounds:
        limit = next(context[name] for name in ("ge", "le", "lt") if name in context)
        return msg("expected {bounds} {limit}", bounds=bounds[kind], limit=limit), msg(
            "set {key} to {bounds} {limit}", key=key, bounds=bounds[kind], limit=limit
        )
    kinds = {"int": "a whole number", "float": "a number", "string": "text", "tuple": "a list"}
    expected = next((text for name, text in kinds.items() if kind.startswith(name)), "another type")
    return msg("expected {expected}", expected=expected), msg(
        "write {key} as {expected}", key=key, expected=expected
    )


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    text = redact_shapes(text)
    return text if len(text) <= 80 else f"{text[:77]}…"
