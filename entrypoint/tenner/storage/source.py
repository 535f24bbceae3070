"""What a dataset or a base model is fetched through: a store whose files have versions."""

from pathlib import Path
from typing import Protocol

from tenner.core.retry import Deadline
from tenner.storage.store import OnBytes


class Source(Protocol):
    """A bucket or remote to read from. Names are relative to its address, with `/`. Everything
    raises TransientError or PermanentError."""

    def names(self, under: str, deadline: Deadline) -> tuple[str, ...]:
        """The names of all files in the folder `under` (empty: everywhere), sorted."""
        ...

    def version(self, name: str, deadline: Deadline) -> tuple[int, str]:
        """Size in bytes, and what changes with the content. PermanentError where there is none."""
        ...

    def beginning(self, name: str, num_bytes: int, deadline: Deadline) -> bytes:
        """The first so many bytes of a file."""
        ...

    def fetch(
        self, name: str, target: Path, deadline: Deadline, on_bytes: OnBytes | None = None
    ) -> None:
        """Bring one file to `target`, whole or not at all; what a cut call brought is used.
        `on_bytes` is called with the number of bytes that are here."""
        ...
