"""Fetching one object: cut transfers resume where they ended, in the same version of the object."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenner.core.messages import msg
from tenner.core.retry import Deadline, TransientError, retrying
from tenner.storage.destination import Destination
from tenner.storage.s3_client import S3Client, call

_BLOCK_BYTES = 1 << 20


def download_object(
    client: S3Client,
    destination: Destination,
    key: dict[str, str],
    target: Path,
    deadline: Deadline,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Fetch to `target`, atomically. What arrived stays, and a second call resumes there, which
    s3transfer cannot: it throws away what arrived when a transfer fails.

    `on_bytes` is called with the number of bytes that are here. Raises TransientError or
    PermanentError.
    """
    head = call(destination, deadline, client.head_object, **key)
    size, etag = int(head["ContentLength"]), str(head.get("ETag", ""))
    mark = hashlib.sha256(f"{key} {etag} {size}".encode()).hexdigest()[:8]
    part = target.with_name(f".{target.name[:200]}.{mark}.part")
    target.parent.mkdir(parents=True, exist_ok=True)

    def fetch_rest() -> None:
        """Fetch what is missing in the partial file, of the same version (If-Match). Raises
        TransientError where the answer is cut."""
        done = part.stat().st_size if part.exists() else 0
        if done > size:
            part.unlink()
            done = 0
        arguments: dict[str, Any] = {**key}
        if etag:
            arguments["IfMatch"] = etag
        if done:
            arguments["Range"] = f"bytes={done}-"
        if done < size or not part.exists():
            body = call(destination, deadline, client.get_object, **arguments)["Body"]
            with part.open("ab") as out:
                while block := call(destination, deadline, body.read, _BLOCK_BYTES):
                    out.write(block)
                    done += len(block)
                    if on_bytes:
                        on_bytes(done)
        if part.stat().st_size != size:
            raise TransientError(msg("{name}: the transfer was cut", name=target.name))

    retrying(deadline, fetch_rest)
    part.replace(target)
