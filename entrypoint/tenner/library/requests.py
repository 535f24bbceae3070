"""Settings as a caller gives them: values by name, a settings file, or a request that was read."""

import os
from collections.abc import Mapping
from pathlib import Path

from tenner.settings import Request, load_request

Given = Request | Mapping[str, object] | str | Path
"""Values by the settings' names, the path of a settings file, or a request."""


def environ_of(environ: Mapping[str, str] | None) -> Mapping[str, str]:
    """The given environment, or this process's."""
    return os.environ if environ is None else environ


def request_of(given: Given, environ: Mapping[str, str], *, preset: str | None = None) -> Request:
    """The settings as a request. As on the command line, `TENNER_*` variables of `environ` are
    weaker than given values and stronger than a file; `./training_config.toml` is not read by
    itself.

    Raises SettingsError with every problem of every source.
    """
    if isinstance(given, Request):
        return given
    if isinstance(given, str | Path):
        return load_request({}, environ, config=Path(given), preset=preset)
    values = {name: _plain(value) for name, value in given.items()}
    return load_request(values, environ, preset=preset, read_default_config=False)


def _plain(value: object) -> object:
    """A path as its text, as files and flags give it."""
    return str(value) if isinstance(value, Path) else value
