"""What the machine around the card has for this process: CPUs, RAM, shared memory, disk.

In a container the kernel still shows the whole host; the limits that count are in its cgroup.
All files are read below `root`, so that any machine can be described in a folder.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
_UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2^63."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """What this process may use. `limited` is True where a cgroup allows less than the machine
    has."""

    cpus: float
    ram_mib: int
    free_ram_mib: int
    shm_mib: int
    """Free space of /dev/shm, through which data-loading processes pass images."""
    cpus_limited: bool = False
    ram_limited: bool = False


@dataclass(frozen=True, kw_only=True)
class DiskSpace:
    """Free space of the file system that would hold `path`."""

    path: Path
    free_mib: int
    total_mib: int
    is_writable: bool


def inspect_host(root: Path = Path("/")) -> Host:
    """Limits of cgroup v2 and v1 both, the smallest of all that apply; 1 CPU where nothing is
    known."""
    cpus_here = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None
    machine_cpus = cpus_here or float(os.cpu_count() or 1)
    cpu_limit = _cpu_limit(root)
    total, available = _meminfo(root)
    ram_limit, ram_used = _ram_limit(root)
    free_in_limit = max(ram_limit - ram_used, 0) if ram_limit else available
    return Host(
        cpus=min(machine_cpus, cpu_limit or math.inf),
        ram_mib=min(total, ram_limit or total) // MIB,
        free_ram_mib=min(available, free_in_limit) // MIB,
        shm_mib=_free_shm(root / "dev/shm"),
        cpus_limited=bool(cpu_limit and cpu_limit < machine_cpus),
        ram_limited=bool(ram_limit and ram_limit < total),
    )


def disk_space(path: Path) -> DiskSpace:
    """Space for `path`, which need not exist: that of its nearest existing parent."""
    folder = path.absolute()
    while not os.path.exists(folder) and folder != folder.parent:  # noqa: PTH110 it never raises
        folder = folder.parent
    figures = os.statvfs(folder)
    return DiskSpace(
        path=path,
        free_mib=figures.f_bavail * figures.f_frsize // MIB,
        total_mib=figures.f_blocks * figures.f_frsize // MIB,
        is_writable=os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK),  # noqa: PTH112
    )


def _free_shm(path: Path) -> int:
    try:
        figures = os.statvfs(path)
    except OSError:
        return 0
    return figures.f_bavail * figures.f_frsize // MIB


def _meminfo(root: Path) -> tuple[int, int]:
    """Total and available RAM in bytes."""
    figures: dict[str, int] = {}
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            figures[name] = int(words[0]) * 1024
    total = figures.get("MemTotal", 0)
    return total, figures.get("MemAvailable", figures.get("MemFree", total))


def _cpu_limit(root: Path) -> float | None:
    limits: list[float] = []
    for folder in cgroup_folders(root, controller=""):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        limits += _quotient(quota, period)
    for folder in cgroup_folders(root, controller="cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        limits += _quotient(quota, period)
    return min(limits, default=None)


def _quotient(quota: str, period: str) -> list[float]:
    quota, period = quota.strip(), period.strip()
    valid = quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0
    return [int(quota) / int(period)] if valid else []


def _ram_limit(root: Path) -> tuple[int | None, int]:
    """The tightest limit in bytes and what is used below it without the file cache."""
    found: list[tuple[int, int]] = []
    for folder in cgroup_folders(root, controller=""):
        limit = _number(folder / "memory.max")
        cache = _stat(folder / "memory.stat", "inactive_file")
        found += _limited(limit, _number(folder / "memory.current"), cache)
    for folder in cgroup_folders(root, controller="memory"):
        limit = _number(folder / "memory.limit_in_bytes")
        cache = _stat(folder / "memory.stat", "total_inactive_file")
        found += _limited(limit, _number(folder / "memory.usage_in_bytes"), cache)
    return min(found, default=(None, 0))


def _limited(limit: int | None, used: int | None, cache: int) -> list[tuple[int, int]]:
    if limit is None or limit >= _UNLIMITED_BYTES:
        return []
    return [(limit, max((used or 0) - cache, 0))]


def cgroup_folders(root: Path, *, controller: str) -> Iterator[Path]:
    """This process's group and all above it: the limits of all of them apply.

    `controller` is "" for cgroup v2. In a container /proc/self/cgroup may name a path of the host
    that is not there; the mount's top is then the container's own group.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        bases = [mount / controllers, mount / controller] if controller else [mount]
        base = next((each for each in bases if each.is_dir()), None)
        if base is None:
            continue
        folder = base / path.strip().lstrip("/")
        if ".." in folder.parts:
            folder = base
        while folder != base:
            yield folder
            folder = folder.parent
        yield base


def _stat(path: Path, name: str) -> int:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
