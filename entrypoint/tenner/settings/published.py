"""Settings as they leave this machine: without its file paths.

A path has no meaning elsewhere and names the user and the folders of who trained. What is left of
one is its last name; addresses (`hf://…`, `s3://…`) stay.
"""

from dataclasses import replace
from pathlib import PureWindowsPath
from typing import Any

from tenner.core.redact import LocalPaths
from tenner.settings.model import Settings
from tenner.settings.resolve import Request

PATH_SETTINGS = (
    *("base_model", "vae", "dataset", "reg_data_dir", "network_weights"),
    *("output_dir", "destinations"),
)
"""Settings that are paths or addresses. Others are texts that may contain a path."""


def published(settings: Settings) -> Settings:
    """`settings` without paths of this machine."""
    paths = LocalPaths()
    values: dict[str, Any] = {}
    for key in Settings.model_fields:
        value = getattr(settings, key)
        name = public_name if key in PATH_SETTINGS else paths.removed
        values[key] = _each(value, name)
    return settings.model_copy(update=values)


def published_request(request: Request) -> Request:
    """`request` without paths of this machine, in its values and their sources."""
    paths = LocalPaths()
    set_at = {key: paths.removed(where) for key, where in request.set_at.items()}
    return replace(request, settings=published(request.settings), set_at=set_at)


def public_name(address: str) -> str:
    """The last name of a path; an address as it is."""
    is_address = "://" in address or address.startswith("rclone:")
    if is_address and not address.startswith("file://"):
        return address
    return PureWindowsPath(address).name or address


def _each(value: Any, name: Any) -> Any:
    match value:
        case str():
            return name(value)
        case tuple():
            return tuple(_each(one, name) for one in value)  # pyright: ignore[reportUnknownVariableType]
        case dict():
            return {key: _each(one, name) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value
