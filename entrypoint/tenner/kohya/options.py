"""What sd-scripts can be given: every option of its trainers, and which of them are tenner's.

`options.json` holds the options of all `*train_network.py` at one commit: those that each has, and
for the others which scripts have them. Its own `--config_file` passes typing errors, wrong types
and bad choices in silence, so values are checked here and then handed over as arguments.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any, Literal

from tenner.core.errors import Problem
from tenner.core.messages import Message, msg
from tenner.core.suggest import nearest_name

Kind = Literal["str", "path", "int", "float", "int_or_float", "switch"]
Scalar = str | int | float | bool
Value = Scalar | tuple[Scalar, ...]

EXPECTED: Mapping[Kind, str] = {
    "str": "text",
    "path": msg("a path"),
    "int": msg("a whole number"),
    "float": msg("a number"),
    "int_or_float": msg("whole steps (100), a share (0.1) or a percentage (10%)"),
    "switch": msg("true or false"),
}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option. `choices` may hold None, which is its default and cannot be written.

    `scripts` are those that have it; empty for all. `differs` holds choices and default of scripts
    where these are others.
    """

    name: str
    kind: Kind
    many: bool = False
    choices: tuple[str | int | None, ...] = ()
    default: Scalar | None = None
    scripts: tuple[str, ...] = ()
    differs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    def is_of(self, script: str) -> bool:
        """Whether this script has it."""
        return not self.scripts or script in self.scripts

    def of(self, script: str) -> "Option":
        """As this script has it."""
        return replace(self, **self.differs[script]) if script in self.differs else self

    @property
    def expected(self) -> str:
        """What a value of it looks like, for messages."""
        if self.choices:
            return "one of " + ", ".join(str(each) for each in self.choices if each is not None)
        return (
            msg("{expected}, one or more", expected=EXPECTED[self.kind])
            if self.many
            else EXPECTED[self.kind]
        )


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Options with their values in the expected types, and the problems of the others."""

    values: Mapping[str, Value]
    problems: tuple[Problem, ...]


@cache
def options() -> Mapping[str, Option]:
    """All options by name."""
    return {each["name"]: _option(each) for each in _packaged()["options"]}


def _option(found: dict[str, Any]) -> Option:
    for each in (found, *found.get("differs", {}).values()):
        if "choices" in each:
            each["choices"] = tuple(each["choices"])
    found["scripts"] = tuple(found.get("scripts", ()))
    return Option(**found)


@cache
def pinned_commit() -> str:
    """The commit of sd-scripts that the facts are of."""
    return _packaged()["commit"]


def nearest(name: str) -> str | None:
    """The option that `name` most likely means, or None where nothing is near."""
    return nearest_name(name.lower().replace("-", "_"), options())


def check(given: Mapping[str, object]) -> Checked:
    """Check options given by a user, on top of those that tenner names itself.

    Values may be text (environment variables and flags are) or TOML's own types. All problems are
    reported: unknown names, options that are tenner's, wrong types and wrong choices.
    """
    values: dict[str, Value] = {}
    problems: list[Problem] = []
    for name, value in given.items():
        option = options().get(name)
        if option is None:
            problems.append(_unknown(name))
        elif name in OWNED:
            problems.append(
                Problem(text=msg("{name} is not for sd-scripts here", name=name), fix=OWNED[name])
            )
        else:
            try:
                values[name] = read_value(option, value)
            except ValueError as error:
                problems.append(
                    Problem(
                        text=msg(
                            "{name} = {shown}: {error}", name=name, shown=_shown(value), error=error
                        )
                    )
                )
    return Checked(values=values, problems=tuple(problems))


def read_value(option: Option, value: object) -> Value:
    """`value` in the type of `option`. Raises ValueError, in words, where it cannot be."""
    several = _several(value)
    if option.many:
        parts = several if several is not None else str(value).split()
        return tuple(_read_scalar(option, part) for part in parts)
    if several is not None and option.name in PAIRS:
        return ",".join(str(part) for part in several)
    return _read_scalar(option, value)


def _several(value: object) -> list[object] | None:
    """The parts of a list or tuple, None for anything else."""
    return list[object](value) if isinstance(value, list | tuple) else None  # pyright: ignore[reportUnknownArgumentType]


def _read_scalar(option: Option, value: object) -> Scalar:
    if isinstance(value, list | tuple | dict):
        raise ValueError(msg("expected {expected}", expected=option.expected))  # noqa: TRY004 the caller reports ValueError
    text = str(value).strip()
    read = _READERS[option.kind]
    try:
        found = read(text) if option.kind in ("switch", "str", "path") else read(_plain(value))
    except ValueError as error:
        raise ValueError(
            str(error) or msg("expected {expected}", expected=option.expected)
        ) from None
    if option.choices and found not in option.choices:
        raise ValueError(
            msg(
                "expected {expected}{did_you_mean}",
                expected=option.expected,
                did_you_mean=_did_you_mean(str(found), option),
            )
        )
    return found


def _plain(value: object) -> str:
    """A number as text, refusing what only looks like one."""
    if isinstance(value, bool):
        raise ValueError(msg("expected a number, not true or false"))  # noqa: TRY004
    text = str(value).strip()
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        raise ValueError(
            msg("decimals are written with a point: {text}", text=text.replace(",", "."))
        )
    return text


def _switch(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError(msg("expected true or false"))


def _int(text: str) -> int:
    number = _float(text)
    if number != int(number):
        raise ValueError(msg("expected a whole number"))
    return int(number)


def _float(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(msg("expected a number")) from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(msg("expected a finite number"))
    return number


def _int_or_float(text: str) -> int | float:
    """As sd-scripts reads it: 1 and more are steps, below 1 a share of all steps, `10%` too."""
    number = _float(text[:-1]) / 100 if text.endswith("%") else _float(text)
    if number >= 1 and (number != int(number) or text.endswith("%")):
        raise ValueError(msg("expected {expected}", expected=EXPECTED["int_or_float"]))
    return int(number) if number >= 1 or number == 0 else number


_READERS = {
    "str": str,
    "path": str,
    "int": _int,
    "float": _float,
    "int_or_float": _int_or_float,
    "switch": _switch,
}


def _unknown(name: str) -> Problem:
    near = nearest(name)
    fix = (
        msg("did you mean {near}?", near=near)
        if near
        else msg("see the settings list: tenner settings")
    )
    return Problem(text=msg("sd-scripts has no option {name}", name=name), fix=fix)


def _did_you_mean(text: str, option: Option) -> str:
    known = [str(each) for each in option.choices if each is not None]
    near = nearest_name(text.lower(), known, least=60)
    return msg(" (did you mean {near}?)", near=near) if near else ""


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


@cache
def _packaged() -> dict[str, Any]:
    source = resources.files("tenner.kohya") / "options.json"
    return json.loads(source.read_text(encoding="utf-8"))


PAIRS = ("resolution", "face_crop_aug_range")
"""Options that sd-scripts expects as `a,b` text; it crashes on a list or a number."""

_HUB = msg('set destinations = ["hf://user/repo"] and HF_TOKEN; tenner uploads and verifies')
_RESUME = msg("start the same run again: tenner resumes from its last whole state by itself")
_LOG = msg("tenner reads this log and stores it in the run's directory")

OWNED: Mapping[str, Message] = {
    "config_file": msg("give the file to tenner: tenner train --config FILE"),
    "output_config": msg("tenner keeps the resolved settings in the run's settings.toml"),
    "dataset_config": msg("give the file to tenner as its settings, or set dataset = FOLDER"),
    "in_json": msg("captions are read from text files beside the images"),
    "dataset_class": msg("tenner prepares the dataset; set dataset = FOLDER"),
    "debug_dataset": msg("tenner check shows what is in a dataset"),
    "conditioning_data_dir": msg("set it for a folder, in [[datasets.subsets]] of a dataset file"),
    "resume": _RESUME,
    "resume_from_huggingface": _RESUME,
    "initial_epoch": _RESUME,
    "initial_step": _RESUME,
    "skip_until_initial_step": _RESUME,
    "save_state": msg("states are saved by tenner, with every checkpoint"),
    "save_state_on_train_end": msg("states are saved by tenner, with every checkpoint"),
    "save_last_n_epochs": msg("checkpoints are pruned by tenner after they are delivered"),
    "save_last_n_steps": msg("checkpoints are pruned by tenner after they are delivered"),
    "save_last_n_epochs_state": msg("tenner keeps the newest two states"),
    "save_last_n_steps_state": msg("tenner keeps the newest two states"),
    "save_n_epoch_ratio": msg("set save_every_n_epochs"),
    "huggingface_repo_id": _HUB,
    "huggingface_repo_type": _HUB,
    "huggingface_path_in_repo": _HUB,
    "huggingface_token": _HUB,
    "huggingface_repo_visibility": _HUB,
    "save_state_to_huggingface": _HUB,
    "async_upload": _HUB,
    "wandb_api_key": msg("set the variable WANDB_API_KEY; keys do not belong on a command line"),
    "wandb_run_name": msg("the run has the name of output_name there"),
    "logging_dir": msg("TensorBoard's log is in the run's directory"),
    "console_log_level": _LOG,
    "console_log_file": _LOG,
    "console_log_simple": _LOG,
    "caption_extention": msg("set caption_extension"),
    "use_8bit_adam": msg('set optimizer_type = "AdamW8bit"'),
    "use_lion_optimizer": msg('set optimizer_type = "Lion"'),
}
"""Options that are tenner's own business, and the way to do it in tenner."""
