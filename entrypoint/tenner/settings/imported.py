"""What is read from a file that was made for another tool."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tenner.core.errors import Problem
from tenner.settings.subsets import SubsetRequest


@dataclass(frozen=True, kw_only=True)
class Imported:
    """`values` by tenner's or sd-scripts' names, folders of a dataset configuration, and all that
    is wrong or done otherwise (`note` and `warning`)."""

    values: Mapping[str, Any]
    subsets: tuple[SubsetRequest, ...] = ()
    problems: tuple[Problem, ...] = ()


def is_on(value: Any) -> bool:
    """Whether a value that may be text means true."""
    return str(value).strip().lower() in ("true", "1", "yes", "on")
