"""Prompts for samples, as sd-scripts takes them: a file of them, and options behind `--` in a line.

`a cat --n blurry --w 512 --h 768 --d 7 --l 5 --s 30` is a prompt with its own negative prompt, size
in pixels, seed, guidance scale and steps (`line_to_prompt_dict` and `load_prompts` of sd-scripts'
`library/train_util.py`). Files are read together with the settings, so that the run's settings hold
the prompts themselves.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tenner.core.errors import Problem
from tenner.core.messages import msg

FILE_ENDINGS = (".txt", ".toml", ".json")
_BEGINNINGS_OF_PATHS = ("/", "./", "../", "~/")
_NEAREST_SIDE, _LEAST_SIDE = 8, 64
_MOST_STEPS = 1000
_OTHER_MODELS = ("g", "cn", "ctr", "rcfg", "fs")
"""Options of a prompt that are for Flux, Lumina or ControlNet."""
_NAMES: Mapping[str, str] = {
    "negative_prompt": "n",
    "width": "w",
    "height": "h",
    "seed": "d",
    "scale": "l",
    "sample_steps": "s",
    "sample_sampler": "ss",
    "guidance_scale": "g",
    "controlnet_image": "cn",
    "cfg_trunc_ratio": "ctr",
    "renorm_cfg": "rcfg",
    "flow_shift": "fs",
}
"""Keys of a prompt in TOML and JSON, and the equivalent option of a line."""


@dataclass(frozen=True, kw_only=True)
class PromptLine:
    """A prompt with the options of its line; None for an empty line."""

    text: str
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    guidance: float | None = None
    steps: int | None = None


def parse_prompt(line: str) -> PromptLine:
    """The prompt in a line. Raises ValueError, in words, where an option is ill-formed."""
    text, *options = re.split(r"(?:^|\s)--(?=[a-zA-Z])", line.strip())
    found: dict[str, Any] = {}
    for option in options:
        name, _, value = option.strip().partition(" ")
        _read_option(name.lower(), value.strip(), found)
    return PromptLine(text=text.strip(), **found)


def _read_option(name: str, value: str, found: dict[str, Any]) -> None:
    """Add the option `--name value` to `found`, with sd-scripts' own rounding: sides to multiples
    of 8. Raises ValueError for a wrong value and an unknown option."""
    wholes = {"w": "width", "h": "height", "d": "seed", "s": "steps"}
    if name == "n":
        found["negative"] = value
    elif name in wholes:
        if not re.fullmatch(r"\d+", value):
            raise ValueError(
                msg("--{name} expects a whole number, not '{value}'", name=name, value=value)
            )
        number = int(value)
        if name in ("w", "h"):
            number = max(_LEAST_SIDE, number - number % _NEAREST_SIDE)
        found[wholes[name]] = max(1, min(_MOST_STEPS, number)) if name == "s" else number
    elif name == "l":
        if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", value):
            raise ValueError(msg("--l expects a number, not '{value}'", value=value))
        found["guidance"] = float(value)
    elif name != "ss" and name not in _OTHER_MODELS:
        raise ValueError(
            msg("--{name} is no option of a prompt (--n --w --h --d --l --s are)", name=name)
        )


def read_prompts(entries: Sequence[str]) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """The lines of all prompts, with those of files instead of the files' names, and what is
    wrong."""
    lines: list[str] = []
    problems: list[Problem] = []
    for entry in entries:
        if looks_like_file(entry):
            found, wrong = _read_file(Path(entry.strip()).expanduser())
            lines += found
            problems += wrong
        else:
            lines.append(entry)
            problems += _problems_of(entry, "sample_prompts")
    return tuple(lines), tuple(problems)


def looks_like_file(entry: str) -> bool:
    """Whether a prompt is the name of a file of prompts."""
    text = entry.strip()
    return text.lower().endswith(FILE_ENDINGS) or text.startswith(_BEGINNINGS_OF_PATHS)


def _problems_of(line: str, where: str) -> Iterator[Problem]:
    """What is wrong with a prompt, and which of its options have no effect here."""
    try:
        parse_prompt(line)
    except ValueError as error:
        yield Problem(
            text=msg("{where}: {error}", where=where, error=error),
            fix=msg("correct the prompt '{line}'", line=line[:60]),
        )
        return
    options = set(re.findall(r"(?:^|\s)--([a-zA-Z]+)", line.lower()))
    if "ss" in options:
        text = msg(
            "{where}: --ss is left out, all pictures are drawn with one sampler", where=where
        )
        yield Problem(text=text, fix=msg("set sample_sampler"), level="warning")
    if others := sorted(options & set(_OTHER_MODELS)):
        text = msg(
            "{where}: --{others} is for other models and left out",
            where=where,
            others=" --".join(others),
        )
        yield Problem(text=text, level="note")


def _read_file(path: Path) -> tuple[list[str], list[Problem]]:
    """(lines, problems) of a file of prompts."""
    where = msg("sample_prompts = {path}", path=path)
    if not path.is_file():
        fix = msg("check the path; a prompt itself does not look like a file's name")
        return [], [Problem(text=msg("{where}: there is no such file", where=where), fix=fix)]
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        fix = msg("use .txt with a prompt a line, or sd-scripts' .toml or .json")
        return [], [
            Problem(
                text=msg("{where}: prompts are read from .txt, .toml and .json", where=where),
                fix=fix,
            )
        ]
    try:
        numbered = list(reader(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError) as error:  # UnicodeDecodeError, JSON's and TOML's are ValueErrors
        return [], [
            Problem(
                text=msg("{where}: {error}", where=where, error=error),
                fix=msg("correct the file of prompts"),
            )
        ]
    problems = [
        problem for number, line in numbered for problem in _problems_of(line, f"{path}, {number}")
    ]
    lines = [line for _, line in numbered]
    if not lines:
        problems.append(
            Problem(
                text=msg("{where}: it holds no prompt", where=where), fix=msg("write one a line")
            )
        )
    return lines, problems


def _lines_of_text(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield f"line {number}", line.strip()


def _lines_of_toml(text: str) -> Iterator[tuple[str, str]]:
    """`[prompt]` holds what all have in common, `[[prompt.subset]]` each prompt."""
    shared: Any = tomllib.loads(text).get("prompt")
    subsets: Any = cast("dict[str, Any]", shared).get("subset") if isinstance(shared, dict) else 0
    if not isinstance(subsets, list):
        raise ValueError(msg("expected a table [prompt] with [[prompt.subset]] for each prompt"))  # noqa: TRY004
    for number, each in enumerate(cast("list[Any]", subsets), 1):
        own = dict(cast("dict[str, Any]", shared))
        del own["subset"]
        yield f"prompt {number}", _line_of(own | cast("dict[str, Any]", each), number)


def _lines_of_json(text: str) -> Iterator[tuple[str, str]]:
    found: Any = json.loads(text)
    if not isinstance(found, list):
        raise ValueError(msg("expected a list of prompts"))  # noqa: TRY004
    for number, each in enumerate(cast("list[Any]", found), 1):
        yield f"prompt {number}", each if isinstance(each, str) else _line_of(each, number)


def _line_of(entry: Any, number: int) -> str:
    """A prompt given by keys, as a line. Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError(msg("prompt {number} is neither text nor a table", number=number))  # noqa: TRY004
    found = cast("dict[str, Any]", entry)
    unknown = [key for key in found if key not in (*_NAMES, "prompt", "enum")]
    if unknown:
        raise ValueError(
            msg("prompt {number} has an unknown key '{unknown}'", number=number, unknown=unknown[0])
        )
    words = [" ".join(str(found.get("prompt", "")).split())]
    words += [f"--{_NAMES[key]} {found[key]}" for key in found if key in _NAMES]
    return " ".join(words)


_READERS = {".txt": _lines_of_text, ".toml": _lines_of_toml, ".json": _lines_of_json}
