"""JSON from files that anybody may have written: any fault in it is raised as ValueError."""

import json
from pathlib import Path
from typing import Any, cast

from tenner.core.messages import msg


def parse_json(text: str | bytes) -> Any:
    """The value that `text` holds. Raises ValueError, for thousands of nested brackets too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(msg("it is nested too deep")) from None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The object that `text` holds. Raises ValueError where it is none."""
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError(msg("it holds no JSON object"))  # noqa: TRY004 one kind for all
    return cast("dict[str, Any]", found)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError and ValueError."""
    return parse_object(path.read_bytes())
