"""What killed an engine, by the kernel's counters and by the signal it died of."""

import signal
from pathlib import Path

from tenner.supervision.exit_diagnosis import count_kills, explain

GROUP = "sys/fs/cgroup/docker/abc"


def machine(root: Path, *, kills: int) -> Path:
    """A machine whose container may use 2 GiB, in which the kernel has killed `kills` times."""
    files = {
        "proc/self/cgroup": "0::/docker/abc\n",
        "proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable: 60000000 kB\n",
        f"{GROUP}/memory.max": f"{2 << 30}\n",
        f"{GROUP}/memory.events": f"low 0\nhigh 0\nmax 9\noom {kills}\noom_kill {kills}\n",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_a_containers_memory_limit_is_named(tmp_path: Path) -> None:
    before = count_kills(machine(tmp_path, kills=3))
    machine(tmp_path, kills=4)
    failed = explain(-signal.SIGKILL, before, tmp_path)
    assert failed is not None
    assert failed.kind == "host_memory"
    assert "memory limit of 2048 MiB" in failed.text
    assert "/docker/abc" in failed.text


def test_kills_of_before_are_not_this_ones(tmp_path: Path) -> None:
    before = count_kills(machine(tmp_path, kills=3))
    failed = explain(-signal.SIGKILL, before, tmp_path)
    assert failed is not None
    assert "killed from outside" in failed.text
    assert explain(1, before, tmp_path) is None


def test_signals_are_distinguished(tmp_path: Path) -> None:
    before = count_kills(machine(tmp_path, kills=0))
    bus = explain(-signal.SIGBUS, before, tmp_path)
    in_shell = explain(128 + signal.SIGBUS, before, tmp_path)
    crash = explain(-signal.SIGSEGV, before, tmp_path)
    assert bus is not None
    assert bus == in_shell
    assert "/dev/shm is full" in bus.text
    assert "--shm-size" in bus.fix
    assert crash is not None
    assert "crashed (SIGSEGV)" in crash.text
