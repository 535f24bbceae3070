"""Text for any terminal, pipe or log: in its encoding, and tables without wrapped names."""

import codecs
import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

_ASCII = {
    "×": "x",
    "–": "-",
    "—": "-",
    "−": "-",
    "‑": "-",
    "·": "-",
    "•": "*",
    "→": "->",
    "←": "<-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "±": "+-",
    "²": "2",
    "³": "3",
    "µ": "u",
    "“": '"',
    "”": '"',
    "„": '"',
    "‘": "'",
    "’": "'",
    "━": "-",
    "╸": "-",
    "╺": "-",
    "─": "-",
    "\u00a0": " ",
    "\u202f": " ",
}
"""The characters that tenner itself prints, as one writes them in ASCII."""


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """What is written for characters that an encoding lacks: their ASCII form, else `\\xNN`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    escaped = (
        _ASCII.get(each) or each.encode("ascii", "backslashreplace").decode() for each in missing
    )
    return "".join(escaped), error.end


def print_any_text() -> None:
    """Let stdout and stderr take any text: what their encoding lacks is written in ASCII, and file
    names that are no valid text with their bytes as \\udcXX."""
    codecs.register_error("tenner_ascii", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="tenner_ascii")


def print_tables(*shown: "RenderableType") -> None:
    """Print tables to stdout: as wide as a terminal is; elsewhere no line is ever wrapped, so that
    names of files can be searched for and copied."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(*shown, sep="\n")
        return
    wide = io.StringIO()
    Console(file=wide, width=10_000, highlight=False).print(*shown, sep="\n")
    # Flushed, as errors that follow on stderr would come between the lines of one log.
    print("\n".join(line.rstrip() for line in wide.getvalue().splitlines()), flush=True)
