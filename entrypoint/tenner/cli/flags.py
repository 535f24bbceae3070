"""Settings as command-line flags, made from the settings' own model and texts.

Values stay text here: `settings` validates them together with those of the other sources.
"""

import argparse
from collections.abc import Sequence
from typing import Any, cast, get_args

from pydantic.fields import FieldInfo

from tenner.settings.model import ALIASES, SECTIONS
from tenner.settings.texts import setting_texts


def add_setting_flags(parser: argparse.ArgumentParser, *, explained: bool) -> None:
    """A flag for each setting, in groups as in the documentation; `explained` adds each setting's
    description."""
    texts = setting_texts() if explained else dict[str, str]()
    other_names: dict[str, list[str]] = {}
    for other, key in ALIASES.items():
        other_names.setdefault(key, []).append(f"--{other}")
    for section in SECTIONS:
        group = parser.add_argument_group(section.__doc__ or "")
        for key, field in section.model_fields.items():
            _add_flag(group, key, field, other_names.get(key, []), texts.get(key, ""))


def known_flags(parser: argparse.ArgumentParser) -> frozenset[str]:
    """All flags that `parser` takes, as `--name`."""
    return frozenset(each for action in parser._actions for each in action.option_strings)  # pyright: ignore[reportPrivateUsage]


def add_other_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Flags among `words` that are no settings: options of sd-scripts, or typos.

    Typos are accepted too, with the values that follow them: `settings` reports them together with
    everything else that is wrong, and suggests the name that was meant.
    """
    known = set(known_flags(parser))
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and len(flag) > 2 and flag not in known:
            known.add(flag)
            name = flag[2:].replace("-", "_")
            nargs = _nargs(name)
            added = parser.add_argument(flag, dest=name, nargs=nargs, help=argparse.SUPPRESS)
            added.const = "true" if nargs == "?" else None


def flag_values(parsed: argparse.Namespace, *, not_settings: Sequence[str]) -> dict[str, Any]:
    """What was set by flags, by key, without the program's own arguments `not_settings`."""
    return {
        key: value
        for key, value in vars(parsed).items()
        if value is not None and key not in not_settings
    }


def _nargs(name: str) -> str | None:
    from tenner.kohya import options as facts

    option = facts.options().get(name)
    if option is None:
        return "*"
    if option.kind == "switch":
        return "?"
    return "+" if option.many else None


def is_switch(field: FieldInfo) -> bool:
    """Whether a setting is true or false (or, undecided, None)."""
    return field.annotation is bool or bool in get_args(field.annotation)


def default_text(field: FieldInfo) -> str:
    """The default of a setting as one writes it; empty where the plan decides."""
    value = field.get_default()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        parts = cast("tuple[object, ...]", value)
        return " ".join(str(part) for part in parts)
    return "" if value is None else str(value)


def _add_flag(
    group: "argparse._ArgumentGroup",  # pyright: ignore[reportPrivateUsage]
    key: str,
    field: FieldInfo,
    other_names: list[str],
    text: str,
) -> None:
    text = text.replace("%", "%%").replace("`", "")
    default = default_text(field)
    shown = f"{text} [{default}]" if default else text
    names = [f"--{key}", *other_names]
    if is_switch(field):
        group.add_argument(
            *names, dest=key, nargs="?", const="true", help=shown, metavar="true|false"
        )
        group.add_argument(
            f"--no_{key}", dest=key, action="store_const", const="false", help=argparse.SUPPRESS
        )
    elif isinstance(field.get_default(), tuple) or key == "text_encoder_lr":
        group.add_argument(*names, dest=key, nargs="+", help=shown, metavar="VALUE")
    else:
        group.add_argument(*names, dest=key, help=shown, metavar="VALUE")
