"""A dataset in Google Cloud Storage, Azure Blob Storage or a remote of rclone: a folder, or one
archive.

Stored as a mirror, as those of S3 are: files that are here in the same version are not fetched
again, files that are gone there are removed here, and an interrupted download is resumed.
"""

import hashlib
import os
from pathlib import Path, PurePosixPath

from tenner.core.errors import DatasetError, Problem, SettingsError
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, TransientError
from tenner.core.secrets import secrets_from
from tenner.dataset.request import DatasetRequest, dataset_address
from tenner.storage.bucket_address import read_bucket
from tenner.storage.http import OnBytes, refuse_size
from tenner.storage.mirror import Mirror, RemoteFile
from tenner.storage.opening import open_source
from tenner.storage.source import Source

_DAY_SECONDS = 24 * 3600.0


def fetch_from_store(
    source: str, request: DatasetRequest, cache: Path, on_bytes: OnBytes | None
) -> Path:
    """The folder that mirrors `source`. Raises DatasetError."""
    deadline = Deadline(_DAY_SECONDS)
    secrets, _ = secrets_from(os.environ)
    try:
        folder = read_bucket(source, dataset_address)
        store = open_source(folder, secrets=secrets, env=os.environ)
        files = _listed(store, deadline)
        if not files:
            store = open_source(folder.parent(), secrets=secrets, env=os.environ)
            files = _only(store, PurePosixPath(folder.prefix).name, deadline)
        if not files:
            raise DatasetError(
                msg("{source} holds no files", source=source),
                fix=msg("check the prefix, letter by letter"),
            )
        refuse_size(sum(each.size for each in files.values()), request.max_bytes)
        copy = cache / "stores" / hashlib.sha256(source.encode()).hexdigest()[:32]
        return _fill(Mirror(copy, files), store, deadline, on_bytes)
    except SettingsError as error:
        raise DatasetError(problems=error.problems) from None
    except PermanentError as refused:
        text, fix = secrets.redact(refused.problem.text), refused.problem.fix
        raise DatasetError(problems=[Problem(text=text, fix=fix)]) from None
    except TransientError as trouble:
        raise DatasetError(
            msg("{source} cannot be fetched: {trouble}", source=source, trouble=trouble),
            fix=msg("check the network; starting again resumes the download"),
        ) from None
    except OSError as error:
        raise DatasetError(
            msg(
                "{source} cannot be stored in {cache}: {error}",
                source=source,
                cache=cache,
                error=error,
            ),
            fix=msg("free disk space, or set TENNER_CACHE_DIR"),
        ) from error


def _listed(store: Source, deadline: Deadline) -> dict[str, RemoteFile]:
    """Every file below the address, by its path there. Raises DatasetError for a path that leads
    out of it."""
    found: dict[str, RemoteFile] = {}
    for name in store.names("", deadline):
        if not name or set(name.split("/")) & {"", ".", ".."} or "\\" in name or "\0" in name:
            raise DatasetError(
                msg('the object "{key}" would be written outside the folder', key=name),
                fix=msg("rename it in the bucket"),
            )
        found |= _only(store, name, deadline)
    return found


def _only(store: Source, name: str, deadline: Deadline) -> dict[str, RemoteFile]:
    """The file of this name; nothing where there is none."""
    try:
        size, version = store.version(name, deadline)
    except PermanentError as refused:
        if refused.code != "absent":
            raise
        return {}
    return {name: RemoteFile(key=name, size=size, version=version)}


def _fill(mirror: Mirror, store: Source, deadline: Deadline, on_bytes: OnBytes | None) -> Path:
    mirror.remove_outdated()
    missing = mirror.missing()
    total = mirror.num_bytes
    done = total - sum(each.size for each in missing.values())
    for name, file in missing.items():
        store.fetch(file.key, mirror.path(name), deadline)
        done += mirror.arrived(name)
        if on_bytes:
            on_bytes(done, total)
    return mirror.folder
