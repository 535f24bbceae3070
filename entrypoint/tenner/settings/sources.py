"""The sources of settings: flags, environment, a TOML file, a preset, read by pydantic-settings.

Each source notes where each of its values was written, and collects what is wrong with it instead
of raising, so that all problems are reported at once. pydantic-settings merges the sources by their
strength and validates the result. A source passes on names that it does not know: `resolve` reports
them, with the names that were probably meant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, cast

from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tenner.core.errors import Problem
from tenner.core.json_text import parse_json
from tenner.core.messages import msg
from tenner.settings.dataset_config import import_dataset_config, is_dataset_config
from tenner.settings.environment import unquoted
from tenner.settings.gui_form import import_gui_form, is_gui_form
from tenner.settings.imported import Imported
from tenner.settings.model import Settings
from tenner.settings.names import PREFIX, PROGRAM_VARIABLES, canonical, setting_names
from tenner.settings.subsets import SubsetRequest
from tenner.settings.toml_text import line_of, parse_toml, read_toml

EXCLUSIVE = {
    "max_train_epochs": "max_train_steps",
    "max_train_steps": "max_train_epochs",
    "save_every_n_epochs": "save_every_n_steps",
    "save_every_n_steps": "save_every_n_epochs",
}
"""Keys that set one thing in two ways: set in a stronger source, one replaces the other."""

_ATTENTION = {"xformers": "xformers", "sdpa": "sdpa"}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one source holds, as written. `origins` is where each value was set, for messages."""

    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    problems: tuple[Problem, ...] = ()
    subsets: tuple[SubsetRequest, ...] = ()
    """Folders of an sd-scripts dataset configuration, where the file is or holds one."""


class LoadedSettings(BaseSettings, Settings):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Settings with the sources that they are read from: `LoadedSettings(sources=…)`, the
    strongest first. Raises pydantic's ValidationError with all wrong values."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=False,
        case_sensitive=True,
        enable_decoding=False,  # lists are read by the model, which takes more forms than JSON
        env_prefix=PREFIX,
    )

    def __init__(self, *, sources: Sequence["Source"]) -> None:
        super().__init__(sources=sources)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The given sources; the process's own environment is none of them."""
        given: dict[str, Any] = cast("Any", init_settings).init_kwargs
        return tuple(given["sources"])


class Source(PydanticBaseSettingsSource):
    """A source whose values are traced. After `add`, by the settings' own names:

    `values` are its values, `origins` where each was written, `problems` what is wrong with it;
    `given` is what it gave to pydantic-settings when it was last read. Values that no file can hold
    are left out.
    """

    layer: Layer
    values: dict[str, Any]
    origins: dict[str, str]
    problems: list[Problem]
    given: dict[str, Any]

    def add(self, layer: Layer) -> None:
        """Take over the values of `layer`; two names of one key must agree."""
        self.layer, self.values, self.origins = layer, {}, {}
        self.problems = [*layer.problems]
        for name, value in layer.values.items():
            origin = layer.origins[name]
            if reason := _not_text(value):
                text = msg(
                    "{name} = {value} ({origin}) holds {reason}",
                    name=name,
                    value=f"{value!r:.80}",
                    origin=origin,
                    reason=reason,
                )
                fix = msg("rename the folder or file in plain letters, and write the name as UTF-8")
                self.problems.append(Problem(text=text, fix=fix))
                continue
            key, value = _as_setting(canonical(name), value)
            if key is None:
                continue
            if key in self.values and str(self.values[key]) != str(value):
                text = msg(
                    "{key} is given twice and differs: {origins} and {origin}",
                    key=key,
                    origins=self.origins[key],
                    origin=origin,
                )
                self.problems.append(Problem(text=text, fix=msg("remove one of them")))
            self.values[key], self.origins[key] = value, origin

    def __call__(self) -> dict[str, Any]:
        """The settings for pydantic-settings, without those that a stronger source replaces."""
        self.given = {
            key: value
            for key, value in self.values.items()
            if key in setting_names() and EXCLUSIVE.get(key) not in self.current_state
        }
        return self.given


class LayerSource(Source, InitSettingsSource):
    """Values that were read elsewhere, such as those of a batch's job."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(LoadedSettings, init_kwargs=dict(layer.values))
        self.add(layer)


class FlagsSource(LayerSource):
    """Values of command-line flags, by key."""

    def __init__(self, flags: Mapping[str, Any]) -> None:
        super().__init__(Layer(values=dict(flags), origins={key: f"--{key}" for key in flags}))


class VariablesSource(Source, DotEnvSettingsSource):
    """All `TENNER_*` variables that are settings. Empty ones count as not set.

    Quotes around a whole value are taken off: `docker run --env-file` leaves them on, a shell does
    not. Of pydantic-settings' two readers of variables it is the one for `.env` files, which passes
    on variables that no setting is named after: they are spelling mistakes, to be reported.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._texts = {
            name: text
            for name, value in environ.items()
            if name.startswith(PREFIX)
            and name not in PROGRAM_VARIABLES
            and (text := unquoted(value))
        }
        super().__init__(
            LoadedSettings, env_file=None, dotenv_filtering="match_prefix", case_sensitive=False
        )
        found = DotEnvSettingsSource.__call__(self)
        origins = {name.removeprefix(PREFIX).lower(): name for name in self._texts}
        self.add(Layer(values={key: found[key] for key in origins}, origins=origins))

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): text for name, text in self._texts.items()}


class FileSource(Source, TomlConfigSettingsSource):
    """The settings file: TOML, or a form that kohya_ss' GUI or sd-scripts reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(LoadedSettings, toml_file=path)

    def _read_files(self, files: Any, deep_merge: bool = False) -> dict[str, Any]:
        """Read the file. The library passes over files that are not there and raises where one
        cannot be parsed: here both are problems to be reported with all others."""
        self.add(read_layer(cast("Path", files)))
        return dict(self.layer.values)


class PresetSource(Source):
    """The packaged preset `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(LoadedSettings)
        self.add(_preset_layer(name))

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of one setting, as pydantic-settings requests it."""
        return self.values.get(field_name), field_name, False


def read_layer(path: Path) -> Layer:
    """What the settings file at `path` holds."""
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


def import_json(text: str, *, name: str) -> Imported:
    """A JSON file: the form of kohya_ss' GUI, a dataset configuration of sd-scripts, or plain keys.

    (The GUI saves its form as JSON; the training TOML that it writes has sd-scripts' own keys.)
    """
    try:
        tables = parse_json(text.removeprefix("\ufeff"))
    except ValueError as error:
        problem = Problem(
            text=msg("{name} is not JSON: {error}", name=name, error=error),
            fix=msg("export it again, or use TOML"),
        )
        return Imported(values={}, problems=(problem,))
    if not isinstance(tables, dict):
        problem = Problem(
            text=msg("{name} holds no keys", name=name),
            fix=msg('a settings file is {{"key": value, …}}'),
        )
        return Imported(values={}, problems=(problem,))
    found = cast("dict[str, Any]", tables)
    return import_tables(found) or Imported(values=found)


def import_tables(tables: Mapping[str, Any]) -> Imported | None:
    """Another tool's tables, read; None where they are an ordinary settings file."""
    if is_dataset_config(tables):
        return import_dataset_config(tables)
    if is_gui_form(tables):
        return import_gui_form(tables)
    return None


def tables_layer(tables: Mapping[str, Any], *, name: str, path: Path | None = None) -> Layer:
    """Settings in TOML tables. Sections are for the reader only: keys are flat and unique.

    `name` is what the tables are called in messages, `path` the file whose lines they name.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    sections: dict[str, str] = {}
    problems: list[Problem] = []
    for section, key, value in _entries(tables):
        if isinstance(value, dict):
            problems.append(
                Problem(
                    text=msg(
                        "{name}: [{section}.{key}] is a section inside a section",
                        name=name,
                        section=section,
                        key=key,
                    ),
                    fix=msg("write its keys under [{section}]", section=section),
                )
            )
        elif key in values:
            problems.append(
                Problem(
                    text=msg(
                        "{name}: {key} is set in {sections} and in {section}",
                        name=name,
                        key=key,
                        sections=sections[key],
                        section=_section(section),
                    ),
                    fix=msg("remove one of them"),
                )
            )
        else:
            values[key], sections[key] = value, _section(section)
            number = line_of(path, key) if path else None
            origins[key] = f"{name} line {number}" if number else name
    return Layer(values=values, origins=origins, problems=tuple(problems))


def _preset_layer(name: str) -> Layer:
    """The values of the packaged preset `name`; a problem with the known ones where there is
    none."""
    folder = resources.files("tenner") / "presets"
    known = sorted(
        each.name.removesuffix(".toml")
        for each in (folder.iterdir() if folder.is_dir() else ())
        if each.name.endswith(".toml")
    )
    if name not in known:
        fix = msg("presets are: {known}", known=", ".join(known))
        return Layer(problems=(Problem(text=msg("there is no preset {name}", name=name), fix=fix),))
    tables, problems = parse_toml(
        (folder / f"{name}.toml").read_bytes(), name=msg("preset {name}", name=name)
    )
    return (
        Layer(problems=problems)
        if problems
        else tables_layer(tables, name=msg("preset {name}", name=name))
    )


def _imported(imported: Imported, name: str) -> Layer:
    return Layer(
        values=imported.values,
        origins=dict.fromkeys(imported.values, name),
        problems=imported.problems,
        subsets=imported.subsets,
    )


def _as_setting(key: str, value: Any) -> tuple[str | None, Any]:
    """sd-scripts' switches that are one choice here; a switch that is off sets nothing."""
    on = str(value).strip().lower() in ("true", "1", "yes", "on")
    if key in _ATTENTION:
        return ("attention", _ATTENTION[key]) if on else (None, None)
    return key, value


def _not_text(value: Any) -> str:
    """What is in a value, or in one of a list, that is no text; empty where all is."""
    waiting = [value]
    while waiting:  # no recursion: a file may nest lists as deep as it likes
        each = waiting.pop()
        if isinstance(each, list | tuple):
            waiting.extend(cast("list[Any]", each))
        elif isinstance(each, str) and any("\ud800" <= char <= "\udfff" for char in each):
            return msg("bytes that are not UTF-8")
        elif isinstance(each, str) and "\0" in each:
            return msg("a NUL byte")
    return ""


def _section(name: str) -> str:
    return f"[{name}]" if name else msg("the part above all sections")


def _entries(tables: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    found: list[tuple[str, str, Any]] = []
    for name, value in tables.items():
        if isinstance(value, dict):
            inner = cast("dict[str, Any]", value)
            found += [(name, key, each) for key, each in inner.items()]
        else:
            found.append(("", name, value))
    return found
