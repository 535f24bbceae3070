"""The settings of a run as a file that starts the same run again, with where each came from."""

import tomli_w

from tenner.settings.model import SECTIONS
from tenner.settings.resolve import Request


def settings_toml(request: Request) -> str:
    """TOML of all settings that are decided, each followed by its source. No secrets: settings
    hold none."""
    lines = ["# Settings of this run, as resolved. Start it again with: tenner train THIS_FILE", ""]
    for section in SECTIONS:
        lines.append(f"# {section.__doc__}")
        for key in section.model_fields:
            value = getattr(request.settings, key)
            if value is not None:
                text = tomli_w.dumps({key: _plain(value)}).strip()
                lines.append(f"{text}  # {request.source(key)}" if "\n" not in text else text)
        lines.append("")
    if request.settings.engine_options:
        lines.append("# Options of sd-scripts")
        for key, value in request.settings.engine_options.items():
            lines.append(tomli_w.dumps({key: _plain(value)}).strip())
    return "\n".join(lines) + "\n"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
