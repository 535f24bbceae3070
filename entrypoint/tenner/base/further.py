"""Text encoders and autoencoder of families that have them in files of their own.

A file is the one that its option names, else one beside the base or among the baked models that
has the tensors of such a file, else it is fetched. A base that holds the part itself needs none.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tenner.base.hub_tokenizers import find_tokenizers
from tenner.base.model import Base
from tenner.base.quantised import quantised
from tenner.core.errors import Problem, SettingsError, TennerError, errors_in
from tenner.core.family import Family
from tenner.core.messages import Message, msg
from tenner.core.safetensors_head import TensorEntry, read_safetensors_header, tensor_entries
from tenner.core.secrets import secrets_from
from tenner.families import FAMILIES, FurtherFile
from tenner.settings import Settings
from tenner.storage.cache_dir import downloads_dir
from tenner.storage.http import OnBytes

AUTOENCODERS = ("ae", "vae")
"""Options of files that hold no text encoder."""
_FOLDERS = ("", "text_encoders", "text_encoder", "clip", "vae", "ae")
_MOST_FILES = 200
"""Of a folder that are looked into: headers alone are read."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Where files may come from. `fetches` off leaves those that are not here for later."""

    settings: Settings
    environ: Mapping[str, str]
    models_dir: Path
    fetches: bool
    on_stage: Callable[[str, str], None]
    on_bytes: OnBytes | None


@dataclass(frozen=True, kw_only=True)
class Further:
    """The files by the option that names them, tokenizers as `user/repo/file`, and a note for each
    that is fetched later."""

    files: Mapping[str, Path]
    text_sizes_gb: Mapping[str, float] = field(default_factory=dict[str, float])
    """Of the text encoders, where one of them is here or named."""
    tokenizers: Mapping[str, Path] = field(default_factory=dict[str, Path])
    notices: tuple[Problem, ...] = ()


def find_further(base: Base, search: Search) -> Further:
    """All files that the base's family needs besides it. Raises SettingsError with all that is
    wrong with them."""
    files, problems = dict[str, Path](), list[Problem]()
    names = _tensor_names(base.path) if base.facts.files else ()
    for part in base.facts.files:
        if part.inside and any(part.inside in name for name in names):
            continue
        try:
            found = (
                _named(part, search.settings)
                or _beside(part, base, search)
                or _fetched(part, search)
            )
        except TennerError as error:
            problems += error.problems
            continue
        if found:
            files[part.option] = found
        else:
            problems.append(_to_fetch(part))
    tokenizers = find_tokenizers(
        base.family, search.environ, fetches=search.fetches, on_bytes=search.on_bytes
    )
    problems += tokenizers.problems
    if errors_in(problems):
        raise SettingsError(problems=errors_in(problems))
    return Further(
        files=files,
        text_sizes_gb=_text_sizes(base, files, search.settings),
        tokenizers=tokenizers.files,
        notices=tuple(problems),
    )


def _text_sizes(base: Base, files: Mapping[str, Path], settings: Settings) -> dict[str, float]:
    """Sizes of all text encoders in 1e9 bytes; empty where each is the family's usual file.

    Of an address the file's name tells whether its weights have 8 bits.
    """
    parts = [each for each in base.facts.files if each.option not in AUTOENCODERS]
    if not any(each.option in files or _value(each, settings) for each in parts):
        return {}
    found = dict[str, float]()
    for part in parts:
        here = files.get(part.option)
        halved = "fp8" in _value(part, settings).rpartition("/")[2].lower()
        found[part.option] = here.stat().st_size / 1e9 if here else part.gb / (2 if halved else 1)
    return found


def named_problems(family: Family, settings: Settings) -> tuple[Problem, ...]:
    """What is wrong with files on this machine that settings name, before the base is here."""
    found: list[Problem] = []
    for part in FAMILIES[family].files:
        try:
            _named(part, settings)
        except SettingsError as error:
            found += error.problems
    return tuple(found)


def _tensor_names(path: Path) -> tuple[str, ...]:
    return tuple(tensor_entries(read_safetensors_header(path))) if path.is_file() else ()


def _value(part: FurtherFile, settings: Settings) -> str:
    """Its value in the settings, empty where it is not set."""
    value = settings.vae if part.option == "vae" else settings.engine_options.get(part.option)
    return str(value or "")


def _named(part: FurtherFile, settings: Settings) -> Path | None:
    """The file that its option names. Raises SettingsError where it is no such file."""
    value = _value(part, settings)
    if not value or "://" in value:
        return None
    path = Path(value).expanduser()
    if not path.is_file():
        raise SettingsError(
            msg(
                "{option} = {path}: there is no such file ({title})",
                option=part.option,
                path=path,
                title=part.title,
            ),
            fix=msg(
                "name the file, or leave {option} out: {file} of {hub_id} is then fetched",
                option=part.option,
                file=part.file,
                hub_id=part.hub_id,
            ),
        )
    entries = tensor_entries(read_safetensors_header(path))
    fix = msg("name such a file as {file}", file=Path(part.file).name)
    if wrong := _not_of_kind(entries, part):
        raise SettingsError(
            msg(
                "{option} = {path} is not {title}: {wrong}",
                option=part.option,
                path=path,
                title=part.title,
                wrong=wrong,
            ),
            fix=fix,
        )
    if how := quantised(entries):
        raise SettingsError(
            msg("{option} = {path} is quantised: {how}", option=part.option, path=path, how=how),
            fix=fix,
        )
    return path


def _not_of_kind(entries: Mapping[str, TensorEntry], part: FurtherFile) -> Message | None:
    """Why a file is not of this kind; None where it is."""
    entry = entries.get(part.mark)
    if entry is None:
        return msg("it has no tensor {mark}", mark=part.mark)
    if part.shape not in ((), tuple(entry["shape"])):
        return msg(
            "its tensor {mark} is {found}, not {expected}",
            mark=part.mark,
            found="×".join(map(str, entry["shape"])),
            expected="×".join(map(str, part.shape)),
        )
    return None


def _beside(part: FurtherFile, base: Base, search: Search) -> Path | None:
    """A file of this kind beside the base, as people and ComfyUI lay them, or among the baked."""
    if _value(part, search.settings):
        return None  # an address, which is fetched
    beside = [base.path.parent / each for each in _FOLDERS]
    around = [base.path.parent.parent / each for each in _FOLDERS if each]
    for folder in (*beside, *around, search.models_dir):
        for file in _safetensors_in(folder, part):
            if file != base.path and _is_kind_quietly(file, part):
                return file
    return None


def _safetensors_in(folder: Path, part: FurtherFile) -> Iterator[Path]:
    """Files of a folder, those of the known names first."""
    try:
        found = sorted(each for each in folder.iterdir() if each.suffix in (".safetensors", ".sft"))
    except OSError:
        return
    known = (Path(part.file).name, *part.other_names)
    yield from sorted(found[:_MOST_FILES], key=lambda each: each.name not in known)


def _is_kind_quietly(path: Path, part: FurtherFile) -> bool:
    try:
        entries = tensor_entries(read_safetensors_header(path))
    except SettingsError:
        return False  # an unrelated file there may be broken
    return _not_of_kind(entries, part) is None and quantised(entries) is None


def _fetched(part: FurtherFile, search: Search) -> Path | None:
    if not search.fetches:
        return None
    if value := _value(part, search.settings):
        return _fetch(value, "", search)
    at = "" if part.revision == "main" else f"@{part.revision}"
    return _fetch(f"hf://{part.hub_id}{at}/{part.file}", part.sha256, search)


def _fetch(address: str, sha256: str, search: Search) -> Path | None:
    from tenner.base.source import fetch_base, parse_base_address

    parsed = parse_base_address(address)
    if parsed is None:
        raise SettingsError(
            msg("{address} is no address", address=address), fix=msg("name a file, or hf://…")
        )
    search.on_stage("base model", str(parsed))
    return fetch_base(
        parsed,
        cache=downloads_dir(search.environ) / "bases",
        secrets=secrets_from(search.environ)[0],
        environ=search.environ,
        on_bytes=search.on_bytes,
        sha256=sha256,
    ).path


def _to_fetch(part: FurtherFile) -> Problem:
    return Problem(
        text=msg(
            "{title} is not here: {file} of {hub_id} is fetched, {gb} GB",
            title=part.title,
            file=part.file,
            hub_id=part.hub_id,
            gb=f"{part.gb:.1f}",
        ),
        fix=msg("set {option} to a file that is here to save the download", option=part.option),
        level="note",
    )
