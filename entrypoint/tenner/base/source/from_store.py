"""A base model in a bucket or a remote of rclone: one checkpoint, or a folder in diffusers
layout."""

from collections.abc import Callable

from tenner.base.source.address import BaseAddress, base_address
from tenner.base.source.cache import FetchedBase, Fetching, check_sha256, key_of
from tenner.base.source.choosing import choose_files
from tenner.core.errors import SettingsError
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.storage.bucket_address import read_bucket
from tenner.storage.destination import Destination
from tenner.storage.opening import open_source
from tenner.storage.source import Source

_LONGEST_SECONDS = 6 * 3600.0
"""Seven GB at 3 Mbit/s."""


def fetch_from_store(address: BaseAddress, task: Fetching) -> FetchedBase:
    """Raises SettingsError where it is not there or cannot be fetched."""
    return with_store(address, task, Deadline(_LONGEST_SECONDS), _fetch)


def with_store(
    address: BaseAddress,
    task: Fetching,
    deadline: Deadline,
    action: Callable[[Source, BaseAddress, Fetching, Deadline], FetchedBase],
) -> FetchedBase:
    """What `action` makes of the bucket's folder. Raises SettingsError."""
    try:
        store = open_source(_folder(address), secrets=task.secrets, env=task.environ)
        return action(store, address, task, deadline)
    except PermanentError as refused:
        raise SettingsError(problems=[refused.problem]) from refused
    except TransientError as passing:
        raise SettingsError(
            msg("{address} cannot be fetched: {passing}", address=address, passing=passing),
            fix=msg("check the network; starting again resumes the download"),
        ) from passing


def _folder(address: BaseAddress) -> Destination:
    """The folder that holds the file, or the folder itself."""
    folder = address.path
    if folder.endswith(".safetensors"):
        folder = folder.rpartition("/")[0]
    options = f"?{address.options}" if address.options else ""
    if address.kind == "rclone":
        return read_bucket(f"rclone:{address.location}:{folder}", base_address)
    return read_bucket(f"{address.kind}://{address.location}/{folder}{options}", base_address)


def versions_of(
    store: Source, address: BaseAddress, deadline: Deadline
) -> dict[str, tuple[int, str]]:
    """Size and version of each file that the base is made of."""
    if address.path.endswith(".safetensors"):
        names = (address.path.rpartition("/")[2],)
    else:
        listed = retrying(deadline, lambda: store.names("", deadline))
        names = choose_files(listed, where=str(address))
    return {
        name: retrying(deadline, lambda name=name: store.version(name, deadline)) for name in names
    }


def _fetch(store: Source, address: BaseAddress, task: Fetching, deadline: Deadline) -> FetchedBase:
    store_dir = task.cache / address.kind / key_of(f"{address} {address.options}")
    versions = versions_of(store, address, deadline)
    names = tuple(versions)
    folder = store_dir / key_of(str(sorted(versions.items())))
    total = sum(size for size, _ in versions.values())
    before = 0
    for name, (size, _) in versions.items():
        target = folder / name
        if not target.is_file():

            def report(done: int, before: int = before) -> None:
                if task.on_bytes:
                    task.on_bytes(before + done, total)

            store.fetch(name, target, deadline, on_bytes=report)
        before += size
    if len(names) == 1:
        check_sha256(folder / names[0], task.sha256, address)
    return FetchedBase(path=folder / names[0] if len(names) == 1 else folder)
