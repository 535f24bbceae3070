"""What every kind of destination can do, so that delivering is written once.

A store moves bytes to and from one destination and lists what is there. Nothing counts as stored
unless it was verified: `missing` leaves out only files whose remote size and content agree with the
hashed file.
Its methods raise `TransientError` and `PermanentError` (see `retry`), never a library's own errors.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from tenner.core.checksums import HashedFile
from tenner.core.errors import Problem
from tenner.core.retry import Deadline
from tenner.storage.destination import Destination
from tenner.storage.permissions import Permissions

OnBytes = Callable[[int], None]
"""Called with the number of bytes of each piece of a file that has arrived."""


class Store(Protocol):
    """One destination, opened. Names are relative to it, with `/`."""

    destination: Destination
    whole_sets: bool
    """True where many files arrive in one act (a commit), so that no partial set is ever
    visible."""

    def probe(self, deadline: Deadline) -> tuple[Problem, ...]:
        """Write, read back and delete something small; all problems by value."""
        ...

    def permissions(self, deadline: Deadline) -> Permissions:
        """What may be done there besides writing, as found out once."""
        ...

    def missing(self, files: Sequence[HashedFile], deadline: Deadline) -> tuple[HashedFile, ...]:
        """The files that are not there with their size and content."""
        ...

    def put(
        self,
        files: Sequence[HashedFile],
        deadline: Deadline,
        on_bytes: OnBytes,
        gone: Sequence[str] = (),
    ) -> None:
        """Send the files, replacing what has their names; not yet verified. `gone` are removed
        with them: in the same act where `whole_sets`, else when they have arrived."""
        ...

    def create(self, name: str, content: bytes, deadline: Deadline) -> bool:
        """Write a small file where none of this name is. False, and nothing changed, where there
        is one. Of several callers at once only one gets True.

        Raises PermanentError where the destination cannot guarantee that.
        """
        ...

    def read(self, name: str, deadline: Deadline) -> bytes | None:
        """A small file's content, or None where there is none."""
        ...

    def fetch(self, name: str, target: Path, deadline: Deadline) -> None:
        """Bring one file to `target`, whole or not at all."""
        ...

    def names(self, under: str, deadline: Deadline) -> tuple[str, ...]:
        """The names of all files in the folder `under` (empty: everywhere), sorted."""
        ...

    def delete(self, names: Sequence[str], deadline: Deadline) -> None:
        """Remove files; ones that are not there are passed over."""
        ...

    def link(self, name: str) -> str:
        """Where a person opens the file, or an empty text."""
        ...
