"""Writes the settings' tables into docs/settings.md, from the settings' own model and texts.

python -m scripts.settings_tables          rewrites docs/settings.md between its two marks
"""

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tenner.cli.flags import default_text, is_switch
from tenner.settings.model import ALIASES, SECTIONS
from tenner.settings.texts import setting_texts

SETTINGS = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
BEGIN = "<!-- settings: made by `python -m scripts.settings_tables` -->"
END = "<!-- end of settings -->"


def settings_tables() -> str:
    """A table for each group of settings."""
    return "\n\n".join(_table(section) for section in SECTIONS)


def with_tables(page: str) -> str:
    """`page` with the tables between its marks. Raises ValueError where it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{SETTINGS.name} needs the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{settings_tables()}\n\n{END}{after}"


def _table(section: type[BaseModel]) -> str:
    rows = [_row(key, field) for key, field in section.model_fields.items()]
    head = f"**{section.__doc__}**\n\n| key | default | what it does |\n|---|---|---|"
    return "\n".join([head, *rows])


def _row(key: str, field: FieldInfo) -> str:
    others = [f"`{other}`" for other, meant in ALIASES.items() if meant == key]
    names = f"`{key}`" + (f" ({', '.join(others)})" if others else "")
    default = f"`{default_text(field)}`" if default_text(field) else ""
    text = setting_texts()[key].replace("|", "\\|")
    choices = [str(each) for each in get_args(field.annotation) if isinstance(each, str)]
    if choices and not is_switch(field):
        text += " One of " + ", ".join(f"`{each}`" for each in choices) + "."
    return f"| {names} | {default} | {text}{_range(field)} |"


def _range(field: FieldInfo) -> str:
    """The least and the most that a number may be, where both are limited."""
    limits: dict[str, float] = {}
    for kind in (field.annotation, *get_args(field.annotation)):
        limits |= _limits(getattr(kind, "__metadata__", ()))
    limits |= _limits(field.metadata)
    if "ge" not in limits or not {"le", "lt"} & limits.keys():
        return ""
    most = f"less than {limits['lt']:,}" if "lt" in limits else f"{limits['le']:,}"
    return f" {limits['ge']:,} to {most}."


def _limits(metadata: Iterable[object]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in metadata:
        found |= _limits(each.metadata) if isinstance(each, FieldInfo) else {}
        for name in ("ge", "le", "lt"):
            value = getattr(each, name, None)
            if value is not None:
                found[name] = value
    return found


if __name__ == "__main__":
    SETTINGS.write_text(with_tables(SETTINGS.read_text(encoding="utf-8")), encoding="utf-8")
