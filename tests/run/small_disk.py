"""A disk of a few megabytes that can be filled: a tmpfs of the test's own."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of that size at `folder`, for as long as the context lasts."""
    folder.mkdir(parents=True)
    rights: list[str] = [] if os.geteuid() == 0 else ["sudo", "-n"]
    size = f"size={megabytes}m,mode=777"
    mounted = subprocess.run(
        [*rights, "mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr!r}")
    try:
        yield folder
    finally:
        subprocess.run([*rights, "umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Fill a disk. Returns the file that fills it."""
    filler, taken = disk / "filler", 0
    handle = os.open(filler, os.O_RDWR | os.O_CREAT)
    try:
        for piece in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(handle, taken, piece)
                    taken += piece
                    if piece == 1 and taken % (1 << 12) == 0:
                        break
    finally:
        os.close(handle)
    return filler
