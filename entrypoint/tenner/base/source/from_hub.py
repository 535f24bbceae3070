"""A base model on the Hugging Face Hub: which commit, which files, each held to the Hub's hash.

The files are in the layout of huggingface_hub's own cache (`storage.hub_download`). A base is a
folder of links to those that it is made of, since a repo's files in the cache may be more.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tenner.base.source.address import BaseAddress
from tenner.base.source.cache import (
    MAX_BYTES,
    FetchedBase,
    Fetching,
    check_sha256,
    complete_facts,
    download_kind,
    note_complete,
    refuse_full_disk,
)
from tenner.base.source.choosing import choose_files
from tenner.core.errors import Problem, SettingsError
from tenner.core.files import write_atomically
from tenner.core.messages import NO_TEXT, msg
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.core.safetensors_head import read_safetensors_header
from tenner.storage.http import refuse_size
from tenner.storage.hub_client import OFFLINE, HubClient, call_hub, open_hub_client
from tenner.storage.hub_download import (
    HubCache,
    HubFile,
    WrongFileError,
    fetch_hub_file,
    hub_cache,
)

_LISTING_SECONDS = 60.0
_CACHED_LISTING_SECONDS = 5.0
"""How long the Hub may take to list what is cached already."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAY_NOT_READ = frozenset({"401", "402", "403", "GatedRepo", "RepoNotFound"})


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A base on the Hub that is not here: its commit, its files by their names in its folder."""

    client: HubClient
    commit: str
    licence: str
    files: Mapping[str, HubFile]


def fetch_from_hub(address: BaseAddress, task: Fetching) -> FetchedBase:
    """The file or folder at the newest commit of its revision. Raises SettingsError."""
    listed = look_up(address, task)
    if isinstance(listed, FetchedBase):
        return listed
    repo_dir, branch = _repo_dir(address, task)
    cache = hub_cache(task.environ, task.cache / "hub")
    folder = _folder(repo_dir, listed.commit, address)
    _fetch_all(address, listed.client, listed.files, folder, cache, task)
    facts = {"hub_id": address.location, "licence": listed.licence}
    found = _note(repo_dir, listed.commit, address, list(listed.files), facts)
    write_atomically(branch, listed.commit)
    return found


def _repo_dir(address: BaseAddress, task: Fetching) -> tuple[Path, Path]:
    """The repo's folder in the cache, and the note of its revision's newest commit."""
    repo_dir = task.cache / "hub" / address.location.replace("/", "--")
    return repo_dir, repo_dir / "refs" / address.revision.replace("/", "--")


def cached_known_file(address: BaseAddress, task: Fetching) -> FetchedBase | None:
    """A base whose one file is known, where a cache holds it: no request is made."""
    if not address.sha256:
        return None
    repo_dir, _ = _repo_dir(address, task)
    cache = hub_cache(task.environ, task.cache / "hub")
    return _noted(repo_dir, address.revision, address) or _known_and_cached(
        address, repo_dir, cache
    )


def look_up(address: BaseAddress, task: Fetching) -> FetchedBase | Listed:
    """The base where it is here already, else what the Hub has of it. Raises SettingsError."""
    repo_dir, branch = _repo_dir(address, task)
    cache = hub_cache(task.environ, task.cache / "hub")
    if _COMMIT.fullmatch(address.revision) and (
        noted := _noted(repo_dir, address.revision, address)
    ):
        return noted
    if address.sha256 and (cached := _known_and_cached(address, repo_dir, cache)):
        return cached
    try:
        client = open_hub_client(address, secrets=task.secrets, env=task.environ)
        seconds = _CACHED_LISTING_SECONDS if branch.is_file() else _LISTING_SECONDS
        commit, licence, files = _listing(address, client, Deadline(seconds))
    except (PermanentError, TransientError) as error:
        if here := _without_the_hub(error, address, repo_dir, branch, cache):
            return here
        raise refusal(error, address) from error
    if noted := _noted(repo_dir, commit, address):
        return noted
    return Listed(client=client, commit=commit, licence=licence, files=files)


def refusal(error: PermanentError | TransientError, address: BaseAddress) -> SettingsError:
    """What the Hub refused, or why it cannot be reached."""
    if isinstance(error, PermanentError):
        return SettingsError(problems=[error.problem])
    return SettingsError(
        msg("{address} cannot be fetched: {error}", address=address, error=error),
        fix=msg("check the network; starting again resumes the download"),
    )


def _without_the_hub(
    error: PermanentError | TransientError,
    address: BaseAddress,
    repo_dir: Path,
    branch: Path,
    cache: HubCache,
) -> FetchedBase | None:
    """The base as it is cached: as tenner fetched it, or its one file as another program did.

    None where the Hub refuses it, or it is not here.
    """
    if isinstance(error, PermanentError) and error.code != OFFLINE:
        return None
    last = branch.read_text("utf-8") if branch.is_file() else ""
    if last and (noted := _noted(repo_dir, last, address)):
        return noted
    if not address.path.endswith(".safetensors"):
        return None
    file = cache.find_of_branch(address.location, address.path, address.revision)
    found = cache.find(file) if file else None
    if file is None or found is None:
        return None
    _link(found, _folder(repo_dir, file.commit, address) / found.name)
    return _note(repo_dir, file.commit, address, [found.name], _facts(address))


def _facts(address: BaseAddress) -> dict[str, str]:
    """What is noted of a base without a request to the Hub."""
    return {
        "hub_id": address.location,
        "licence": address.known.licence if address.known else "",
    }


def _folder(repo_dir: Path, commit: str, address: BaseAddress) -> Path:
    """Each file or folder that is requested has its own, so that one is never taken for another."""
    return repo_dir / commit / (address.path.replace("/", "--") or "all")


def _note(
    repo_dir: Path, commit: str, address: BaseAddress, names: list[str], facts: dict[str, str]
) -> FetchedBase:
    """Note that all files are here, verified."""
    folder = _folder(repo_dir, commit, address)
    note_complete(folder, {name: (folder / name).stat().st_size for name in names}, facts)
    return _fetched(folder, names, facts)


def _noted(repo_dir: Path, commit: str, address: BaseAddress) -> FetchedBase | None:
    folder = _folder(repo_dir, commit, address)
    noted = complete_facts(folder)
    return _fetched(folder, list(noted["files"]), noted) if noted else None


def _fetched(folder: Path, names: list[str], facts: Any) -> FetchedBase:
    path = folder / names[0] if len(names) == 1 else folder
    return FetchedBase(path=path, hub_id=facts["hub_id"], licence=facts["licence"])


def _listing(
    address: BaseAddress, client: HubClient, deadline: Deadline
) -> tuple[str, str, dict[str, HubFile]]:
    """The commit, the licence, and the files to fetch by their names in the base's folder.

    Raises TransientError, PermanentError, SettingsError.
    """

    def info() -> Any:
        return call_hub(
            address,
            client,
            deadline,
            client.api.model_info,
            address.location,
            revision=address.revision,
        )

    def tree(commit: str) -> list[Any]:
        listed = client.api.list_repo_tree(address.location, recursive=True, revision=commit)
        return [each for each in listed if hasattr(each, "size")]

    found = retrying(deadline, info)
    commit = str(found.sha)
    entries = retrying(deadline, lambda: call_hub(address, client, deadline, tree, commit))
    by_name = {str(each.path): each for each in entries}
    names = _chosen(list(by_name), address)
    start = address.path.rpartition("/")[0] if address.path in by_name else address.path
    files = {
        name.removeprefix(start).lstrip("/"): HubFile(
            repo=address.location,
            name=name,
            commit=commit,
            size=int(by_name[name].size),
            sha256=str(by_name[name].lfs.sha256) if by_name[name].lfs else "",
        )
        for name in names
    }
    licence = str(getattr(found.card_data, "license", "") or "") if found.card_data else ""
    return commit, address.known.licence if address.known else licence, files


def _chosen(names: list[str], address: BaseAddress) -> list[str]:
    if address.path in names:
        return [address.path]
    start = f"{address.path}/" if address.path else ""
    inside = [name.removeprefix(start) for name in names if name.startswith(start)]
    if not inside:
        raise SettingsError(
            msg(
                "there is no {path} in hf://{location}",
                path=address.path,
                location=address.location,
            ),
            fix=msg("check the path, letter for letter"),
        )
    return [start + name for name in choose_files(inside, where=str(address))]


def _known_and_cached(address: BaseAddress, repo_dir: Path, cache: HubCache) -> FetchedBase | None:
    """A base whose file is known by its hash, from a cache: no request is made."""
    file = HubFile(
        repo=address.location,
        name=address.path,
        commit=address.revision,
        size=0,
        sha256=address.sha256,
    )
    found = cache.find(file)
    if found is None:
        return None
    _link(found, _folder(repo_dir, address.revision, address) / found.name)
    return _note(repo_dir, address.revision, address, [found.name], _facts(address))


def _link(found: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(found.absolute())


def _fetch_all(
    address: BaseAddress,
    client: HubClient,
    files: Mapping[str, HubFile],
    folder: Path,
    cache: HubCache,
    task: Fetching,
) -> None:
    """Every file, verified and linked into `folder`. Progress counts all of them together."""
    total = sum(file.size for file in files.values())
    refuse_size(total, MAX_BYTES, download_kind(task.cache, headers={}, denied_fix=NO_TEXT))
    found = {name: cache.find(file) for name, file in files.items()}
    missing = [file for name, file in files.items() if found[name] is None]
    refuse_full_disk(cache.path, sum(map(cache.missing_bytes, missing)))
    done = 0
    for name, file in files.items():
        path = found[name] or _fetch_one(address, client, file, cache, _part_of(task, done, total))
        if name.endswith(".safetensors"):
            _read_header(path, address)
        _link(path, folder / name)
        done += file.size
    if len(files) == 1:
        check_sha256(folder / next(iter(files)), task.sha256, address)


def _fetch_one(
    address: BaseAddress, client: HubClient, file: HubFile, cache: HubCache, on_bytes: Any
) -> Path:
    """Raises SettingsError."""
    try:
        return fetch_hub_file(file, client, cache, on_bytes=on_bytes)
    except WrongFileError as error:
        raise SettingsError(
            msg(
                "{address} is not the expected file: its SHA-256 is {found}",
                address=address,
                found=error.found,
            ),
            fix=msg("fetch it again, or correct base_model_sha256"),
        ) from None
    except PermanentError as error:
        raise SettingsError(problems=[_denied(error, address, client)]) from error
    except TransientError as error:
        raise refusal(error, address) from error
    except OSError as error:
        raise SettingsError(
            msg(
                "{address} cannot be stored in {path}: {strerror}",
                address=address,
                path=cache.path,
                strerror=error.strerror,
            ),
            fix=msg("free disk space, or set TENNER_CACHE_DIR"),
        ) from error


def _denied(error: PermanentError, address: BaseAddress, client: HubClient) -> Problem:
    """A refusal, with what lets this base be read."""
    if error.code not in _MAY_NOT_READ:
        return error.problem
    page = msg("{endpoint}/{location}", endpoint=client.endpoint, location=address.location)
    return replace(
        error.problem,
        fix=msg(
            "open {page}, accept its terms where it has some, and set HF_TOKEN to a token"
            " that may read it",
            page=page,
        ),
    )


def _read_header(path: Path, address: BaseAddress) -> None:
    """Raise SettingsError where a file is no safetensors file."""
    try:
        read_safetensors_header(path)
    except SettingsError as error:
        problems = [
            replace(each, text=each.text.replace(str(path), str(address)))
            for each in error.problems
        ]
        raise SettingsError(problems=problems) from error


def _part_of(task: Fetching, before: int, total: int) -> Any:
    def report(done: int) -> None:
        if task.on_bytes:
            task.on_bytes(before + done, total)

    return report
