"""Removes temporary files of killed processes, at a run's next start and after its delivery.

Only files that this program made under a temporary name are removed, and only where no process
writes to them any more (`tenner.core.temporary_files`).
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
"""Folders of a destination with delivered files."""


def remove_leftovers(run_dir: RunDir, destinations: Sequence[Destination], name: str) -> None:
    """Remove them before anything is written. Partial downloads stay: they are resumed."""
    shutil.rmtree(run_dir.path / "outbox", ignore_errors=True)
    release_reserve(run_dir)
    remove_abandoned_folders()
    remove_abandoned_parts(inside=[run_dir.path])
    _at_destinations(destinations, name)


def remove_all_leftovers(run_dir: RunDir, destinations: Sequence[Destination], name: str) -> None:
    """Remove partial files too, after a verified delivery."""
    remove_every_part(run_dir.path)
    _at_destinations(destinations, name)


def _at_destinations(destinations: Sequence[Destination], name: str) -> None:
    for root in [Path(each.root) for each in destinations if each.kind == "folder"]:
        folders = [root / each for each in _DELIVERED]
        remove_abandoned_parts(*folders, inside=[root / own_folder_of(name)])
