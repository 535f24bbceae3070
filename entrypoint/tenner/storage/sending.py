"""Sending files until they are verified, and taking back a mark that calls a set complete."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tenner.core.checksums import HashedFile, hashed_text
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.storage.manifest import MANIFEST_NAME, read_manifest
from tenner.storage.store import OnBytes, Store

OWN_FOLDER = ".tenner"
"""The folder of a run's own files (states, ledger) at a destination, outside of the delivered
set."""
_NO_MANIFEST = "{}\n"


def put_verified(
    store: Store,
    files: Sequence[HashedFile],
    deadline: Deadline,
    on_bytes: OnBytes,
    on_retry: Callable[[str], None] | None,
    gone: Sequence[str] = (),
) -> None:
    """Send what is missing until the store holds all of it; files named in `gone` are removed with
    it."""
    missing = tuple(files)
    sent = False

    def once() -> None:
        """One round: send what is missing, and look again. Raises TransientError where something
        still is."""
        nonlocal missing, sent
        if sent:  # listings can lag behind: look before sending again
            missing = store.missing(missing, deadline)
        if missing:
            deadline.check()
            sent = True
            store.put(missing, deadline, on_bytes, gone)
        missing = store.missing(missing, deadline)
        if missing:
            names = ", ".join(file.name for file in missing[:3])
            raise TransientError(
                msg(
                    "{names}: what {destination} holds is not what was sent (size or hash)",
                    names=names,
                    destination=store.destination,
                )
            )

    retrying(deadline, once, on_retry=on_retry)


def is_in_a_set(store: Store, missing: Sequence[HashedFile], deadline: Deadline) -> bool:
    """Whether a manifest there calls a set complete of which these would replace files.

    A manifest that cannot be read counts as one. Raises TransientError or PermanentError.
    """
    names = {file.name for file in missing} - {MANIFEST_NAME}
    names = {name for name in names if not name.startswith(f"{OWN_FOLDER}/")}
    if not names:
        return False
    try:
        content = store.read(MANIFEST_NAME, deadline)
    except PermanentError:
        if store.permissions(deadline).reads:
            raise
        return True
    there = read_manifest(content) if content else None
    return bool(there) and any(entry.name in names for entry in there.files)


def withdraw(store: Store, names: Sequence[str], deadline: Deadline) -> None:
    """Delete manifests, so that what they list no longer counts as complete; where the keys may
    not delete, overwrite them with an empty one. Raises TransientError or PermanentError."""
    if store.permissions(deadline).deletes:
        try:
            store.delete(names, deadline)
            return
        except PermanentError:
            pass  # a policy that has changed since
    with TemporaryDirectory(prefix="tenner-withdraw-") as folder:
        empty = [
            hashed_text(Path(folder) / str(number), _NO_MANIFEST, name)
            for number, name in enumerate(names)
        ]
        put_verified(store, empty, deadline, lambda num_bytes: None, None)
