"""A base model on the Hugging Face Hub: which commit, which files, each held to the Hub's hash."""

import re
from pathlib import Path
from typing import Any

from tenner.base.source.address import BaseAddress
from tenner.base.source.cache import (
    FetchedBase,
    Fetching,
    RemoteFile,
    bring,
    check_sha256,
    complete_facts,
    note_complete,
    refuse_full_disk,
    wanted_file,
)
from tenner.base.source.choosing import choose_files
from tenner.core.errors import SettingsError
from tenner.core.files import write_atomically
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.storage.hub_client import HubClient, ask, find_in_hub_cache, open_hub_client

_LISTING_SECONDS = 60.0
_KEPT_LISTING_SECONDS = 5.0
"""How long the Hub is asked for news of what is here already."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_from_hub(address: BaseAddress, task: Fetching) -> FetchedBase:
    """The file or folder at the newest commit of its revision. Raises SettingsError."""
    room = task.cache / "hub" / address.location.replace("/", "--")
    branch = room / "refs" / address.revision.replace("/", "--")
    if _COMMIT.fullmatch(address.revision) and (kept := _kept(room, address.revision, address)):
        return kept
    if address.sha256 and (cached := _known_and_cached(address, room, task)):
        return cached
    try:
        client = open_hub_client(address, secrets=task.secrets, env=task.environ, to_write=False)
        seconds = _KEPT_LISTING_SECONDS if branch.is_file() else _LISTING_SECONDS
        commit, licence, files = _listing(address, client, Deadline(seconds))
    except PermanentError as refused:
        raise SettingsError(problems=[refused.problem]) from refused
    except TransientError as passing:
        last = branch.read_text("utf-8") if branch.is_file() else ""
        if last and (kept := _kept(room, last, address)):
            return kept
        raise SettingsError(
            f"{address} cannot be fetched: {passing}",
            fix="check the network; a second start goes on where this one ended",
        ) from passing
    if kept := _kept(room, commit, address):
        return kept
    folder = _folder(room, commit, address)
    _link_cached(address, commit, files, folder, task)
    _bring_all(address, client, files, folder, task)
    facts = {"hub_id": address.location, "licence": licence}
    note_complete(folder, {each.name: (folder / each.name).stat().st_size for each in files}, facts)
    write_atomically(branch, commit)
    return _fetched(folder, [each.name for each in files], facts)


def _folder(room: Path, commit: str, address: BaseAddress) -> Path:
    """Each file or folder that is asked for has its own, so that one is never taken for another."""
    return room / commit / (address.path.replace("/", "--") or "all")


def _kept(room: Path, commit: str, address: BaseAddress) -> FetchedBase | None:
    folder = _folder(room, commit, address)
    noted = complete_facts(folder)
    return _fetched(folder, list(noted["files"]), noted) if noted else None


def _fetched(folder: Path, names: list[str], facts: Any) -> FetchedBase:
    path = folder / names[0] if len(names) == 1 else folder
    return FetchedBase(path=path, hub_id=facts["hub_id"], licence=facts["licence"])


def _listing(
    address: BaseAddress, client: HubClient, deadline: Deadline
) -> tuple[str, str, list[RemoteFile]]:
    """The commit, the licence and the files to fetch.

    Raises TransientError, PermanentError, SettingsError.
    """

    def info() -> Any:
        return ask(
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
    entries = retrying(deadline, lambda: ask(address, client, deadline, tree, commit))
    by_name = {str(each.path): each for each in entries}
    names = _chosen(list(by_name), address)
    start = address.path.rpartition("/")[0] if address.path in by_name else address.path
    files = [
        RemoteFile(
            name=name.removeprefix(start).lstrip("/"),
            url=_url(address.location, name, commit, client.endpoint),
            size=int(by_name[name].size),
            sha256=str(by_name[name].lfs.sha256) if by_name[name].lfs else "",
        )
        for name in names
    ]
    licence = str(getattr(found.card_data, "license", "") or "") if found.card_data else ""
    return commit, address.known.licence if address.known else licence, files


def _chosen(names: list[str], address: BaseAddress) -> list[str]:
    if address.path in names:
        return [address.path]
    start = f"{address.path}/" if address.path else ""
    inside = [name.removeprefix(start) for name in names if name.startswith(start)]
    if not inside:
        raise SettingsError(
            f"there is no {address.path} in hf://{address.location}",
            fix="check the path, letter for letter",
        )
    return [start + name for name in choose_files(inside, where=str(address))]


def _url(repo: str, name: str, commit: str, endpoint: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, name, revision=commit, endpoint=endpoint)


def _known_and_cached(address: BaseAddress, room: Path, task: Fetching) -> FetchedBase | None:
    """A base whose file is known by its hash, from huggingface_hub's own cache: nobody is asked."""
    folder = _folder(room, address.revision, address)
    file = RemoteFile(name=address.path.rpartition("/")[2], url="", sha256=address.sha256)
    _link_cached(address, address.revision, [file], folder, task)
    if not (folder / file.name).is_symlink():
        return None
    facts = {
        "hub_id": address.location,
        "licence": address.known.licence if address.known else "",
    }
    note_complete(folder, {file.name: (folder / file.name).stat().st_size}, facts)
    return _fetched(folder, [file.name], facts)


def _link_cached(
    address: BaseAddress, commit: str, files: list[RemoteFile], folder: Path, task: Fetching
) -> None:
    """Take what huggingface_hub's own cache holds of the files: as links, so that it stays one."""
    start = address.path if not address.path.endswith(".safetensors") else ""
    start = start or address.path.rpartition("/")[0]
    for each in files:
        target, name = folder / each.name, f"{start}/{each.name}".lstrip("/")
        if target.is_file():
            continue
        found = find_in_hub_cache(address.location, name, commit, each.sha256, task.environ)
        if found:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.symlink_to(found)


def _bring_all(
    address: BaseAddress, client: HubClient, files: list[RemoteFile], folder: Path, task: Fetching
) -> None:
    """Every file, verified. Progress counts all of them together."""
    total = sum(each.size or 0 for each in files)
    here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    refuse_full_disk(task.cache, total - here)
    before = 0
    for each in files:
        target = folder / each.name
        if target.is_symlink():
            before += each.size or 0
            continue
        each_task = Fetching(
            cache=task.cache,
            secrets=task.secrets,
            environ=task.environ,
            on_bytes=_part_of(task, before, total),
        )
        wanted = wanted_file(
            task.cache,
            headers={"Authorization": f"Bearer {client.token}"} if client.token else {},
            denied_fix=f"open {client.endpoint}/{address.location}, accept its terms where it has"
            " some, and set HF_TOKEN to a token that may read it",
            weights=target.suffix == ".safetensors",
        )
        bring(address, target, each.url, each_task, wanted)
        check_sha256(target, each.sha256, address)
        before += each.size or 0
    if len(files) == 1:
        check_sha256(folder / files[0].name, task.sha256, address)


def _part_of(task: Fetching, before: int, total: int) -> Any:
    def told(done: int, _: int | None) -> None:
        if task.on_bytes:
            task.on_bytes(before + done, total)

    return told
