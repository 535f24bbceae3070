"""Files made for other tools, read as tenner's keys: kohya_ss' GUI, sd-scripts' datasets. Pure.

The GUI saves its form (JSON), and writes a training TOML from it, whose keys are sd-scripts' own.
"""

from collections.abc import Mapping
from typing import Any, cast

from tenner.core.errors import Problem
from tenner.core.json_text import parse_json
from tenner.core.messages import msg
from tenner.settings.dataset_config import import_dataset_config, is_dataset_config
from tenner.settings.gui_form import import_gui_form, is_gui_form
from tenner.settings.imported import Imported


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
    """Another tool's tables, read; None where they are an ordinary settings file."""
    if is_dataset_config(tables):
        return import_dataset_config(tables)
    if is_gui_form(tables):
        return import_gui_form(tables)
    return None
