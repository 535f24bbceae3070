"""The doors that settings come in by: flags, environment, a TOML file, a preset.

Each gives a `Layer`: raw values by key, where each was said, and what was wrong at that door.
A layer never drops a name it does not know: it passes it on, and `resolve` asks whether anybody
knows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, cast

from tenner.core.errors import Problem
from tenner.settings.sd_scripts_files import Imported, import_json, import_tables
from tenner.settings.subsets import SubsetRequest
from tenner.settings.toml_text import line_of, parse_toml, read_toml

PREFIX = "TENNER_"

PROGRAM_VARIABLES = {
    "TENNER_CONFIG": "the settings file",
    "TENNER_PRESET": "the preset",
    "TENNER_TRAINER_PYTHON": "the Python that holds the trainer",
    "TENNER_CACHE_DIR": "where downloads are kept",
    "TENNER_MODELS_DIR": "where baked base models are",
    "TENNER_SERVE_TOKEN": "the token of the served page",
    "TENNER_SERVE_TOKEN_FILE": "a file that holds it",
    "TENNER_HOST_API": "another address of the host's API",
    "TENNER_WEBHOOK": "where a run tells of itself",
    "TENNER_WEBHOOK_FILE": "a file with that address",
    "TENNER_CHILD_ENV": "further variables that the trainer may see",
    "TENNER_LOG": "how much is said: quiet, normal, debug",
}
"""Variables that steer the program rather than a run; they are no settings."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What came in by one door. `said_at` tells where each key was said, in the user's words."""

    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    said_at: Mapping[str, str] = field(default_factory=dict[str, str])
    problems: tuple[Problem, ...] = ()
    subsets: tuple[SubsetRequest, ...] = ()
    """Folders of an sd-scripts dataset configuration, where the file is or holds one."""


def flags_layer(flags: Mapping[str, Any]) -> Layer:
    """Values of command-line flags, by key."""
    return Layer(values=dict(flags), said_at={key: f"--{key}" for key in flags})


def env_layer(environ: Mapping[str, str]) -> Layer:
    """All `TENNER_*` variables that are settings. Empty ones count as not set.

    Quotes around a whole value are taken off: `docker run --env-file` keeps them, a shell does not.
    """
    values: dict[str, str] = {}
    said_at: dict[str, str] = {}
    for name, value in environ.items():
        text = _unquoted(value.strip())
        if not name.startswith(PREFIX) or name in PROGRAM_VARIABLES or not text:
            continue
        key = name.removeprefix(PREFIX).lower()
        values[key] = text
        said_at[key] = name
    return Layer(values=values, said_at=said_at)


def file_layer(path: Path) -> Layer:
    """The settings file at `path`: TOML, or a form that kohya_ss' GUI or sd-scripts reads."""
    if path.suffix.lower() == ".json" and path.is_file():
        imported = import_json(path.read_text(encoding="utf-8", errors="replace"), name=path.name)
        return _imported(imported, path.name)
    tables, problems = read_toml(path)
    if problems:
        return Layer(problems=problems)
    imported = import_tables(tables)
    if imported:
        return _imported(imported, path.name)
    return tables_layer(tables, name=path.name, path=path)


def preset_layer(name: str) -> Layer:
    """The packaged preset `name`."""
    folder = resources.files("tenner") / "presets"
    known = sorted(
        each.name.removesuffix(".toml")
        for each in (folder.iterdir() if folder.is_dir() else ())
        if each.name.endswith(".toml")
    )
    if name not in known:
        fix = f"presets are: {', '.join(known)}"
        return Layer(problems=(Problem(text=f"there is no preset {name}", fix=fix),))
    tables, problems = parse_toml((folder / f"{name}.toml").read_bytes(), name=f"preset {name}")
    if problems:
        return Layer(problems=problems)
    return tables_layer(tables, name=f"preset {name}")


def _imported(imported: Imported, name: str) -> Layer:
    return Layer(
        values=imported.values,
        said_at=dict.fromkeys(imported.values, name),
        problems=imported.problems,
        subsets=imported.subsets,
    )


def _unquoted(text: str) -> str:
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text


def tables_layer(tables: Mapping[str, Any], *, name: str, path: Path | None = None) -> Layer:
    """Settings in TOML tables. Sections are for the reader only: keys are flat and unique.

    `name` is what the tables are called in messages, `path` the file whose lines they tell of.
    """
    values: dict[str, Any] = {}
    said_at: dict[str, str] = {}
    sections: dict[str, str] = {}
    problems: list[Problem] = []
    for section, key, value in _entries(tables):
        if isinstance(value, dict):
            problems.append(
                Problem(
                    text=f"{name}: [{section}.{key}] is a section inside a section",
                    fix=f"write its keys under [{section}]",
                )
            )
        elif key in values:
            problems.append(
                Problem(
                    text=f"{name}: {key} is set in {sections[key]} and in {_place(section)}",
                    fix="keep one of them",
                )
            )
        else:
            values[key], sections[key] = value, _place(section)
            number = line_of(path, key) if path else None
            said_at[key] = f"{name} line {number}" if number else name
    return Layer(values=values, said_at=said_at, problems=tuple(problems))


def _place(section: str) -> str:
    return f"[{section}]" if section else "the part above all sections"


def _entries(tables: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    found: list[tuple[str, str, Any]] = []
    for name, value in tables.items():
        if isinstance(value, dict):
            inner = cast("dict[str, Any]", value)
            found += [(name, key, each) for key, each in inner.items()]
        else:
            found.append(("", name, value))
    return found
