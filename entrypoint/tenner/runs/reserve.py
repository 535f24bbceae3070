"""Disk space that a run reserves for the case that the disk gets full.

It is released when nothing more can be written: then the trainer can save once more, and the
ledger, the events, the page and the files of a delivery fit.
"""

import contextlib
import os
from pathlib import Path

from tenner.core.run_dir import RunDir

NOTES_BYTES = 32 << 20
"""For the ledger, the events, the page and its copies, and the files of a delivery."""


def reserve(run_dir: RunDir, num_bytes: int) -> bool:
    """Allocate `num_bytes` on the disk. Returns whether they are allocated."""
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
        release_reserve(run_dir)
        return False
    finally:
        os.close(handle)
    return True


def release_reserve(run_dir: RunDir) -> None:
    """Free the reserved space."""
    with contextlib.suppress(OSError):
        _file(run_dir).unlink(missing_ok=True)


def _file(run_dir: RunDir) -> Path:
    return run_dir.path / ".reserved"
