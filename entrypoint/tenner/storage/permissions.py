"""What the keys of a destination may do there, besides writing, which all need."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """`reads`: what was written can be read back. `lists`: the names of files can be requested.
    `deletes`: files can be removed."""

    reads: bool = True
    lists: bool = True
    deletes: bool = True


ALL_PERMISSIONS = Permissions()
