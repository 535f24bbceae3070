"""Removes this machine's paths, which name its user and its folders, from texts that leave it.

A path in the run's directory becomes relative to it, the home folder becomes `~`, and of any other
absolute path its last name is left. Addresses (`s3://…`, `https://…`) are no paths.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

_HOME = re.compile(
    r"(?<![\w.~:/…\\])(?:/root|/(?:home|Users)/[^/\s'\"]+|[A-Za-z]:\\Users\\[^\\\s'\"]+)"
)
_NAME = r"[^/\\\s'\"`,;:()<>|]+"
_ABSOLUTE = re.compile(rf"(?<![\w.~:/…\\])(?:[A-Za-z]:)?[/\\](?:{_NAME}[/\\])+({_NAME})?")
_MORE_THAN_A_PATH = re.compile(r"\n|[:,;] |://")
_IDS = ("msgid", "many")
"""Keys of a message's JSON form whose texts are tenner's own: paths in them stay."""
_FILE_URL = re.compile(r"\bfile://(?=[/~])")


@dataclass(frozen=True, kw_only=True)
class LocalPaths:
    """`inside` are folders whose files are named relative to them, such as the run's directory."""

    inside: Sequence[Path] = ()

    @cached_property
    def _home(self) -> str:
        """This user's home, where it is a folder of its own."""
        try:
            home = Path.home()
        except RuntimeError:  # no HOME, and no entry for this user
            return "~"
        return str(home) if len(home.parts) > 1 else "~"

    @cached_property
    def _roots(self) -> re.Pattern[str] | None:
        found = {str(form) for each in self.inside for form in (each.absolute(), each.resolve())}
        longest_first = sorted((text for text in found if len(Path(text).parts) > 1), key=len)[::-1]
        if not longest_first:
            return None
        return re.compile(
            rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?:([/\\])|(?!\w))"
        )

    def removed(self, text: str) -> str:
        """`text` without paths of this machine."""
        if "/" not in text and "\\" not in text:
            return text
        text = _FILE_URL.sub("", text)
        if self._roots:
            text = self._roots.sub(lambda found: "" if found[1] else ".", text)
        text = _HOME.sub("~", text.replace(self._home, "~"))
        if Path(text).is_absolute() and not _MORE_THAN_A_PATH.search(text):
            return _shortened(text)  # a path alone: blanks are part of it
        return _ABSOLUTE.sub(lambda found: f"…/{found[1] or ''}", text)

    def removed_in(self, value: Any) -> Any:
        """The same for every text in a JSON value."""
        match value:
            case str():
                return self.removed(value)
            case dict():
                items = cast("dict[str, Any]", value).items()
                return {key: each if key in _IDS else self.removed_in(each) for key, each in items}
            case list():
                return [self.removed_in(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
            case _:
                return value


def _shortened(path: str) -> str:
    parts = Path(path).parts
    return path if len(parts) <= 2 else f"…/{parts[-1]}"
