"""What killed processes left of a run: removed at its next start and once it is delivered.

Only what this program itself made under a temporary name is removed, and only where no process
writes to it any more (`tenner.core.temporary_files`).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tenner.core.run_dir import RunDir
from tenner.core.temporary_files import (
    remove_abandoned_folders,
    remove_abandoned_parts,
    remove_every_part,
)
from tenner.runs.remote_run import own_folder_of
from tenner.runs.reserve import release_reserve
from tenner.storage.destination import Destination

_DELIVERED = ("", "checkpoints", "samples")
"""Folders of a destination that files are delivered to."""


def remove_leftovers(run_dir: RunDir, destinations: Sequence[Destination], name: str) -> None:
    """At a start, while nothing is written yet. Partial downloads stay: they are resumed."""
    shutil.rmtree(run_dir.path / "outbox", ignore_errors=True)
    release_reserve(run_dir)
    remove_abandoned_folders()
    remove_abandoned_parts(inside=[run_dir.path])
    _at_destinations(destinations, name)


def remove_all_leftovers(run_dir: RunDir, destinations: Sequence[Destination], name: str) -> None:
    """After a verified delivery: partial files are not resumed any more."""
    remove_every_part(run_dir.path)
    _at_destinations(destinations, name)


def _at_destinations(destinations: Sequence[Destination], name: str) -> None:
    for root in [Path(each.root) for each in destinations if each.kind == "folder"]:
        folders = [root / each for each in _DELIVERED]
        remove_abandoned_parts(*folders, inside=[root / own_folder_of(name)])
