"""What stores without a client of their own have in common: fetching in pieces, and the check."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Protocol

from tenner.core.checksums import HashedFile, changed_since
from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.storage.store import OnBytes, Store

CHUNK_BYTES = 16 << 20


def digest_of(file: HashedFile, algorithm: str) -> str:
    """Another hash of a file, in hex. Raises PermanentError where the file is not what it was when
    it was hashed, OSError."""
    with file.path.open("rb") as source:
        digest = hashlib.file_digest(source, lambda: hashlib.new(algorithm, usedforsecurity=False))
    if not file.is_as_hashed() and (changed := changed_since(file)):
        raise PermanentError(changed)
    return digest.hexdigest()


class ReadsParts(Protocol):
    """A store that can read a part of a file."""

    def read_part(self, name: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of a file. Raises TransientError or PermanentError."""
        ...


def fetch_in_chunks(
    store: ReadsParts,
    name: str,
    size: int,
    deadline: Deadline,
    write: Callable[[bytes], object],
    *,
    start: int = 0,
) -> None:
    """Read a file of `size` bytes piece by piece, each tried again by itself."""
    while start < size:
        deadline.check()
        end = min(start + CHUNK_BYTES, size)
        piece = retrying(deadline, lambda start=start, end=end: store.read_part(name, start, end))
        if not piece:
            raise TransientError(msg("{name}: the transfer was cut", name=name))
        write(piece)
        start += len(piece)


def download_in_chunks(
    store: ReadsParts,
    name: str,
    target: Path,
    size: int,
    version: str,
    deadline: Deadline,
    on_bytes: OnBytes | None,
) -> None:
    """Fetch to `target`, atomically. What arrived of this version stays, and a second call resumes
    there. `on_bytes` is called with how many bytes are here."""
    mark = hashlib.sha256(f"{name} {version} {size}".encode()).hexdigest()[:8]
    part = target.with_name(f".{target.name[:200]}.{mark}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.exists() else 0
    if done > size:
        part.unlink()
        done = 0
    with part.open("ab") as out:

        def write(piece: bytes) -> None:
            out.write(piece)
            if on_bytes:
                on_bytes(out.tell())

        fetch_in_chunks(store, name, size, deadline, write, start=done)
    part.replace(target)


def probe_store(
    store: Store, deadline: Deadline, write: Callable[[str, bytes], None]
) -> tuple[Problem, ...]:
    """Write, read back, list and delete something small; all of it must be allowed."""
    name, content = f".tenner-check-{token_hex(4)}", token_hex(16).encode()
    try:
        retrying(deadline, lambda: write(name, content), max_refusals=1)
        back = retrying(deadline, lambda: store.read(name, deadline))
        listed = name in store.names("", deadline)
        store.delete([name], deadline)
        left = retrying(deadline, lambda: store.read(name, deadline))
    except PermanentError as refused:
        return (refused.problem,)
    if back != content:
        text = msg(
            "{destination} returned other bytes than were written", destination=store.destination
        )
        fix = msg("this server does not store files unchanged: use another destination")
        return (Problem(text=text, fix=fix),)
    if not listed or left is not None:
        text = msg(
            "{destination}: a file that was written could not be listed or deleted",
            destination=store.destination,
        )
        return (Problem(text=text, fix=msg("allow writing, reading, listing and deleting there")),)
    return ()
