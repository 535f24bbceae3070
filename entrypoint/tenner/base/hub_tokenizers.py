"""Tokenizers that sd-scripts looks up on the Hub while it trains, put where it finds them offline.

Its scripts for some families call `from_pretrained("user/repo")`. The files are fetched at a fixed
commit before the training, and laid out as huggingface_hub's cache has them: `refs/main` names the
commit and `snapshots/COMMIT` holds the files, so that no request is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tenner.core.errors import Problem, TennerError, errors_in
from tenner.core.family import Family
from tenner.core.files import write_atomically
from tenner.core.messages import msg
from tenner.core.secrets import secrets_from
from tenner.families import FAMILIES, HubTokenizer
from tenner.storage.cache_dir import downloads_dir
from tenner.storage.http import OnBytes


@dataclass(frozen=True, kw_only=True)
class Tokenizers:
    """The files that are here, as `user/repo/file`, and what is wrong or noted of the others."""

    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    problems: tuple[Problem, ...] = ()


def find_tokenizers(
    family: Family, environ: Mapping[str, str], *, fetches: bool, on_bytes: OnBytes | None
) -> Tokenizers:
    """All files of the family's tokenizers: from a cache, else fetched.

    With `fetches` off what is not here is noted, and what is gated is requested of the Hub, which
    refuses it to those who have not accepted its terms.
    """
    found = dict[str, Path]()
    problems: list[Problem] = []
    for each in FAMILIES[family].hub_tokenizers:
        here = {name: _cached(each, name, environ) for name in each.files}
        if not fetches and None in here.values():
            problems += _later(each, environ)
            continue
        for name, path in here.items():
            try:
                found[f"{each.hub_id}/{name}"] = path or _fetched(each, name, environ, on_bytes)
            except TennerError as error:
                problems += error.problems
                break  # its other files have the same
    return Tokenizers(files=found, problems=tuple(problems))


def write_tokenizers(folder: Path, family: Family, files: Mapping[str, Path]) -> None:
    """Lay the files out in `folder` as a cache of the Hub's. Raises OSError."""
    for each in FAMILIES[family].hub_tokenizers:
        repo = folder / f"models--{each.hub_id.replace('/', '--')}"
        snapshot = repo / "snapshots" / each.revision
        snapshot.mkdir(parents=True, exist_ok=True)
        for name in each.files:
            link = snapshot / name
            link.unlink(missing_ok=True)
            link.symlink_to(files[f"{each.hub_id}/{name}"].absolute())
        write_atomically(repo / "refs" / "main", each.revision)


def _cached(each: HubTokenizer, name: str, environ: Mapping[str, str]) -> Path | None:
    from tenner.storage.hub_download import HubFile, hub_cache

    file = HubFile(
        repo=each.hub_id, name=name, commit=each.revision, size=0, sha256=each.files[name]
    )
    return hub_cache(environ, _own_cache(environ) / "hub").find(file)


def _own_cache(environ: Mapping[str, str]) -> Path:
    return downloads_dir(environ) / "bases"


def _fetched(
    each: HubTokenizer, name: str, environ: Mapping[str, str], on_bytes: OnBytes | None
) -> Path:
    """Raises SettingsError."""
    from tenner.base.source import fetch_base, parse_base_address

    address = parse_base_address(f"hf://{each.hub_id}@{each.revision}/{name}")
    assert address is not None
    return fetch_base(
        address,
        cache=_own_cache(environ),
        secrets=secrets_from(environ)[0],
        environ=environ,
        on_bytes=on_bytes,
        sha256=each.files[name],
    ).path


def _later(each: HubTokenizer, environ: Mapping[str, str]) -> tuple[Problem, ...]:
    asked: tuple[Problem, ...] = ()
    if each.is_gated:
        from tenner.base.source.access import GatedFile, file_access_problems

        first = next(iter(each.files))
        gated = GatedFile(hub_id=each.hub_id, revision=each.revision, file=first)
        asked = file_access_problems(gated, environ)
        if errors_in(asked):
            return asked
    text = msg(
        "{title} is not here: it is fetched from {hub_id}", title=each.title, hub_id=each.hub_id
    )
    return (Problem(text=text, level="note"), *asked)
