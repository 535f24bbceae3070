"""What was found wrong or worth knowing, and about which files."""

from collections.abc import Sequence
from dataclasses import dataclass

from tenner.core.errors import Level, Problem
from tenner.core.messages import NO_TEXT, Message, msg

NAMES_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One judgement. `kind` is a stable word for programs, `files` are paths in the source."""

    kind: str
    level: Level
    text: Message
    fix: Message = NO_TEXT
    files: tuple[str, ...] = ()

    @property
    def problem(self) -> Problem:
        return Problem(text=self.text, fix=self.fix, level=self.level)


@dataclass(frozen=True, kw_only=True)
class FileIssue:
    """A file that was left out or corrected, and why."""

    path: str
    why: str


def names(files: Sequence[str], shown: int = NAMES_SHOWN) -> str:
    """`a.png, b.png and 14 more`: enough to find them, short enough for one line."""
    listed = ", ".join(printable(file) for file in files[:shown])
    more = len(files) - shown
    return msg("{names} and {more} more", names=listed, more=f"{more:,}") if more > 0 else listed


def printable(name: str) -> str:
    """A file name that can be printed: no control characters, no broken encoding, no line ends."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
