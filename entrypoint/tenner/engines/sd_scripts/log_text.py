"""One line of sd-scripts' output, taken apart: progress bars, log records, plain lines.

Three writers share the stream. tqdm prints bars and ends them with a carriage return, so the next
message may be on the same line. rich prints `time LEVEL message file.py:123`, leaves the time out
where it did not change, pads with spaces, and wraps long messages at the console's width, also
between and inside wide characters' cells. Everything else is printed as it is.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A progress bar. `seconds_each` is 0 where the bar does not know yet."""

    title: str
    done: int
    total: int
    seconds_each: float = 0.0
    values: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class Record:
    """The first line of a log record, without its time and source."""

    level: Level
    text: str


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """A further line of a log record."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A printed line."""

    text: str


Piece = Bar | Record | Continuation | Plain


def pieces(line: str) -> Iterator[Piece]:
    """The parts of `line`, in order; none for a blank one."""
    rest = _RANK.sub("", _ANSI.sub("", line)).rstrip()
    while found := _BAR.match(rest):
        yield _bar(found)
        rest = rest[found.end() :]
    if not rest.strip():
        return
    if record := _RECORD.match(rest):
        yield Record(level=record["level"], text=_without_source(record["text"]))  # pyright: ignore[reportArgumentType]
    elif rest.startswith(_MESSAGE_COLUMN):
        yield Continuation(text=_without_source(rest))
    else:
        yield Plain(text=rest.strip())


def english(text: str) -> str:
    """The English half of sd-scripts' two-language messages."""
    for found in re.finditer(r"\s*/\s*", text):
        if _CJK.match(text[found.end() : found.end() + 1]):
            return text[: found.start()].strip()
    halves = text.split(" / ", 1)
    return halves[0].strip() if len(halves) == 2 and _CJK.search(halves[1]) else text.strip()


def _bar(found: re.Match[str]) -> Bar:
    values = dict[str, str]()
    for part in (found["values"] or "").split(", "):
        name, equals, value = part.partition("=")
        if equals:
            values[name.strip()] = value.strip()
    return Bar(
        title=found["title"].strip().removesuffix(":").strip(),
        done=int(found["done"]),
        total=int(found["total"]),
        seconds_each=_seconds_each(found["rate"]),
        values=values,
    )


def _seconds_each(rate: str) -> float:
    """`3.58s/it` and `2.00it/s` in seconds per iteration."""
    number = re.match(r"[\d.]+", rate.strip())
    if not number or float(number[0]) == 0:
        return 0.0
    return float(number[0]) if rate.strip().endswith("s/it") else 1 / float(number[0])


def _without_source(text: str) -> str:
    return _SOURCE.sub("", text).strip()


_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_RANK = re.compile(r"^\[rank\d+\]:\s?")
_CJK = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]")
_SOURCE = re.compile(r"\s+[\w.-]+\.py:\d+\s*$")
_MESSAGE_COLUMN = " " * 29  # 19 of time, 1, 8 of level, 1
_RECORD = re.compile(
    r"^(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\s{19})\s"
    r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)\s?(?P<text>.*)$"
)
_BAR = re.compile(
    r"(?P<title>[^|%]*?)\s*\d{1,3}%\|[^|]*\|\s*(?P<done>\d+)/(?P<total>\d+)\s"
    r"\[[\d:?]+<[^,\]]*,\s*(?P<rate>[^,\]]+)(?:,\s*(?P<values>[^\]]*))?\]"
)
