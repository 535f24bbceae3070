"""Files and folders under a temporary name that names their owner, and the removal of those
whose process has ended.

What a process was writing when it was killed stays under its temporary name: in a run's directory,
at a destination, in the system's folder for temporary files. The name holds the machine, the
process and its start, so that a later start removes what no process writes any more, and nothing
else. Only the standard library is used here: the trainer's process imports this module.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex

OTHERS_SECONDS = 3600.0
"""After so long without a change, what a process on another machine was writing counts as
abandoned."""
_LONGEST_BYTES = 160
"""Bytes of the final name that the temporary one holds: with the owner after it the whole stays
below the usual limit of 255 bytes."""
_OWNER = r"(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-(?P<start>\d+)"
_PART = re.compile(rf"\..*\.{_OWNER}-[0-9a-f]{{8}}\.part")
_FOLDER = re.compile(rf"tenner-[a-z]+-{_OWNER}-\w+")
_UNOWNED = re.compile(r"\..*\.part")
"""Downloads that a later call resumes (they have no owner), and parts of earlier versions."""


def part_of(target: Path) -> Path:
    """The temporary name, beside `target`, of what becomes `target` once it is whole."""
    name = target.name.encode()[:_LONGEST_BYTES].decode(errors="ignore")
    return target.with_name(f".{name}.{_owner()}-{token_hex(4)}.part")


def temporary_folder(purpose: str) -> tempfile.TemporaryDirectory[str]:
    """A folder of this process's own in the system's temporary folder, removed with its context.

    `purpose` is one word of small letters.
    """
    return tempfile.TemporaryDirectory(prefix=folder_prefix(purpose))


def folder_prefix(purpose: str) -> str:
    """How the name of such a folder begins."""
    return f"tenner-{purpose}-{_owner()}-"


def remove_abandoned_folders() -> list[Path]:
    """Remove what processes that are gone left in the system's temporary folder. Returns what it
    removed."""
    folder = Path(tempfile.gettempdir())
    return [*_remove(_FOLDER, folder.glob("tenner-*")), *remove_abandoned_parts(folder)]


def remove_abandoned_parts(*folders: Path, inside: Iterable[Path] = ()) -> list[Path]:
    """Remove the parts that are in `folders`, and at any depth `inside` others, where their
    process is gone. Returns those that it removed."""
    found = [path for folder in folders for path in _listed(folder)]
    return _remove(_PART, [*found, *_at_any_depth(inside)])


def remove_every_part(*inside: Path) -> list[Path]:
    """Remove all parts at any depth of folders that are this run's alone, except those of running
    processes: for use when no download will be resumed any more. Returns those that it removed."""
    found = _at_any_depth(inside)
    return [*_remove(_PART, found), *_remove(_UNOWNED, [p for p in found if not _is_owned(p)])]


def _is_owned(path: Path) -> bool:
    return _PART.fullmatch(path.name) is not None


def _listed(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name.endswith(".part")]
    except OSError:
        return []


def _at_any_depth(folders: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        for where, names, files in os.walk(folder):
            parts = [name for name in (*names, *files) if name.endswith(".part")]
            names[:] = [name for name in names if name not in parts]
            found += [Path(where, name) for name in parts]
    return found


def _remove(pattern: re.Pattern[str], paths: Iterable[Path]) -> list[Path]:
    """Remove those of `paths` whose names match `pattern` and whose process has ended. Returns
    them."""
    gone: list[Path] = []
    for path in paths:
        named = pattern.fullmatch(path.name)
        if named is None or (pattern.groups and _is_in_use(path, named)):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        gone.append(path)
    return gone


def _is_in_use(path: Path, named: re.Match[str]) -> bool:
    """Whether the process that made it may still be writing: on this machine the process is looked
    up, for another one the file's time decides."""
    if named["machine"] == _machine():
        return _start_of(int(named["process"])) == int(named["start"])
    try:
        return time.time() - path.stat().st_mtime < OTHERS_SECONDS
    except OSError:
        return False


def _owner() -> str:
    return f"{_machine()}-{os.getpid()}-{_start_of(os.getpid())}"


@functools.cache
def _machine() -> str:
    """A hash of this machine's name, its boot and the namespace of its process ids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  the link names no path
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _start_of(process: int) -> int:
    """When a process started, by the kernel's clock; 0 where it cannot be read, -1 where there is
    no such process."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        return -1 if fields[0] in ("Z", "X") else int(fields[19])
    except OSError:
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return -1
    except OSError:
        return 0
    return 0
