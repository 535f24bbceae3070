"""Why an engine ended that printed no error: a memory limit, a signal, a crash.

At a memory limit the kernel kills a program without a message in its output, so the kernel's
counters are read before and after.
"""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tenner.core.events import Failed
from tenner.core.messages import msg
from tenner.hardware.host import MIB, cgroup_folders, inspect_host

_DIED_OF = re.compile(
    r"exitcode\s*: -(\d+) \(pid|died with <Signals\.\w+: (\d+)>"
    r"|Signal (\d+) \(\w+\) received by PID"
)
"""How torchrun and Python's subprocess (accelerate) report a killed process."""
RESUME = msg("start the same command again: it resumes from the last state")


@dataclass(frozen=True, kw_only=True)
class Kills:
    """How many processes the kernel has killed for memory, by this process's control groups."""

    by_group: dict[Path, int]

    def newer_than(self, before: "Kills") -> list[Path]:
        """The groups with a kill since `before`, the innermost first."""
        return [
            folder
            for folder, number in self.by_group.items()
            if number > before.by_group.get(folder, number)
        ]


def count_kills(root: Path = Path("/")) -> Kills:
    """Read the kernel's counters, of cgroup v2 and v1."""
    found: dict[Path, int] = {}
    for controller, name in (("", "memory.events"), ("memory", "memory.oom_control")):
        for folder in cgroup_folders(root, controller=controller):
            if (number := _kills_in(folder / name)) is not None:
                found[folder] = number
    return Kills(by_group=found)


def explain(
    returncode: int, before: Kills, root: Path = Path("/"), *, last_lines: Sequence[str] = ()
) -> Failed | None:
    """The failure of a program that ended with `returncode` (negative: by that signal); None
    where only its own output shows the cause.

    Launchers of several processes end with 1, and their `last_lines` show of which signal a
    process died.
    """
    if returncode == 0:
        return None
    if killed := count_kills(root).newer_than(before):
        return _memory_limit(killed[0], root)
    number = -returncode if returncode < 0 else returncode - 128
    match _signal_in(last_lines) or number:
        case signal.SIGBUS:
            host = inspect_host(root)
            return Failed(
                kind="host_memory",
                text=msg(
                    "the trainer met a bus error: /dev/shm is full ({shm_mib} MiB free)",
                    shm_mib=host.shm_mib,
                ),
                fix=msg(
                    "start the container with --shm-size=2g or --ipc=host, or set"
                    " max_data_loader_n_workers = 0"
                ),
            )
        case signal.SIGKILL | signal.SIGTERM as number:
            host = inspect_host(root)
            return Failed(
                kind="killed",
                text=msg(
                    "the trainer was killed from outside ({name}): by the host, or for"
                    " memory ({free_ram_mib} of {ram_mib} MiB are free)",
                    name=signal.Signals(number).name,
                    free_ram_mib=host.free_ram_mib,
                    ram_mib=host.ram_mib,
                ),
                fix=RESUME,
            )
        case signal.SIGSEGV | signal.SIGILL | signal.SIGABRT as number:
            return Failed(
                kind="other",
                text=msg("the trainer crashed ({name})", name=signal.Signals(number).name),
                fix=msg("{resume}; if it crashes again, rent another machine", resume=RESUME),
            )
        case _:
            return None


def _memory_limit(group: Path, root: Path) -> Failed:
    host = inspect_host(root)
    limit = next(
        (
            int(text) // MIB
            for name in ("memory.max", "memory.limit_in_bytes")
            if (text := _text(group / name).strip()).isdigit() and int(text) < 1 << 60
        ),
        host.ram_mib,
    )
    return Failed(
        kind="host_memory",
        text=msg(
            "the kernel killed the trainer: it passed the memory limit of {limit} MiB ({group})",
            limit=limit,
            group=group,
        ),
        fix=msg(
            "give the container more memory (docker run --memory, the pod's RAM), or set"
            " max_data_loader_n_workers = 0; {resume}",
            resume=RESUME,
        ),
    )


def _signal_in(lines: Sequence[str]) -> int | None:
    """The signal that killed a process of a launcher, by the launcher's output."""
    found = [each for line in lines if (each := _DIED_OF.search(line))]
    return next(int(number) for number in found[-1].groups() if number) if found else None


def _kills_in(path: Path) -> int | None:
    for line in _text(path).splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.strip().isdigit():
            return int(number)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
