"""A TOML file as text: its values, or what is wrong with it, as problems with their fixes."""

import re
import tomllib
from pathlib import Path
from typing import Any

from tenner.core.errors import Problem
from tenner.core.messages import Message, msg


def read_toml(path: Path) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """The tables of the file at `path`, and what is wrong with it (then the tables are empty)."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        fix = msg(
            "check the path; in a container, mount the file: -v ./my.toml:/workspace/my.toml:ro"
        )
        return {}, (Problem(text=msg("there is no settings file {path}", path=path), fix=fix),)
    except OSError as error:
        return {}, (
            Problem(
                text=msg(
                    "the settings file {path} cannot be read: {strerror}",
                    path=path,
                    strerror=error.strerror,
                ),
                fix=msg("check that it is a file and that you may read it"),
            ),
        )
    return parse_toml(raw, name=str(path))


def parse_toml(raw: bytes, *, name: str) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """As `read_toml`, of bytes. A byte-order mark and UTF-16 with one are understood."""
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        fix = msg("save it as UTF-8")
        return {}, (
            Problem(
                text=msg("{name} is not UTF-8 text (byte {start})", name=name, start=error.start),
                fix=fix,
            ),
        )
    text = text.replace("\r\n", "\n")
    try:
        return tomllib.loads(text), ()
    except tomllib.TOMLDecodeError as error:
        return {}, (_explain(text, str(error), name),)
    except RecursionError:
        fix = msg("a settings file is lines of  key = value  and  [section]")
        return {}, (
            Problem(text=msg("{name} is nested too deep to be settings", name=name), fix=fix),
        )


def line_of(path: Path, key: str) -> int | None:
    """The number of the line that sets `key`, for messages."""
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError:
        return None
    pattern = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*=""")
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), None)


def _explain(text: str, message: str, name: str) -> Problem:
    """The parser's error as a problem: the line that it is about, and how to correct it. An error
    at the end of the text is about the last line that is not empty."""
    found = re.search(r"at line (\d+), column (\d+)", message)
    lines = text.split("\n")
    number = int(found.group(1)) if found else len(lines)
    line = lines[number - 1] if number <= len(lines) else ""
    if not line.strip() and number > 1:
        number, line = number - 1, lines[number - 2]
    reason = re.sub(r"\s*\(at .*\)$", "", message)
    return Problem(
        text=msg(
            "{name}, line {number}: {reason}{reason2}\n    {line}",
            name=name,
            number=number,
            reason=reason[0].lower(),
            reason2=reason[1:],
            line=line.strip(),
        ),
        fix=_hint(line, reason),
    )


def _hint(line: str, reason: str) -> Message:
    """How to correct a line, by the mistakes that people make most often in TOML."""
    _, _, value = line.partition("=")
    value = value.split("#")[0].strip()
    if "\\" in value:
        return msg("in TOML write paths with / or between single quotes: 'C:\\Users\\me'")
    if value in ("True", "False", "None", "Yes", "No"):
        toml = {"True": "true", "Yes": "true", "False": "false", "No": "false"}.get(value)
        return msg("write {toml}", toml=toml) if toml else msg("leave the line out")
    if "overwrite" in reason.lower() or "twice" in reason.lower():
        return msg("the key or section is there twice: remove one of them")
    if re.fullmatch(r"\d+,\d+", value):
        return msg("write decimals with a point: {value}", value=value.replace(",", "."))
    if value and not re.match(r"""["'\[{\d+-]|true|false""", value):
        return msg('text goes between quotes: "{value}"', value=value)
    if value[:1] in ('"', "'") and (len(value) == 1 or value[-1] != value[0]):
        return msg("the closing quote is missing")
    return msg("a line is  key = value  or a  [section]")
