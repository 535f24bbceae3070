"""Room on the run's disk that is held ready for the day when it is full.

It is given back when the disk takes no more: the trainer can then save once more, and the ledger,
the events, the page and what a delivery writes still fit.
"""

import contextlib
import os
from pathlib import Path

from tenner.core.run_dir import RunDir

NOTES_BYTES = 32 << 20
"""For the ledger, the events, the page and its copies, and what is written for a delivery."""


def reserve(run_dir: RunDir, num_bytes: int) -> bool:
    """Take the room on the disk for real, where it is not taken yet. Whether it is."""
    path = _file(run_dir)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return False
    try:
        if os.fstat(handle).st_size != num_bytes:
            os.ftruncate(handle, num_bytes)
        os.posix_fallocate(handle, 0, num_bytes)
    except OSError:
        give_back(run_dir)
        return False
    finally:
        os.close(handle)
    return True


def give_back(run_dir: RunDir) -> None:
    """Let the room be used."""
    with contextlib.suppress(OSError):
        _file(run_dir).unlink(missing_ok=True)


def _file(run_dir: RunDir) -> Path:
    return run_dir.path / ".reserved"
