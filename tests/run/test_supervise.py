"""A program is followed line by line, and stopped once, whole, with all its children."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tenner.core.command import Command
from tenner.core.events import Event, Failed, Phase, parse_event
from tenner.supervision.supervise import Control, Ending, StopRequest, follow, stop_on_signals


def run(
    tmp_path: Path, code: str, stop: StopRequest, *, grace: float = 5.0
) -> tuple[Ending, list[Event]]:
    events: list[Event] = []
    ending = follow(
        Command(argv=(sys.executable, "-u", "-c", code)),
        read=parse_event,
        on_event=events.append,
        log=tmp_path / "engine.log",
        control=Control(environ=dict(os.environ), stop=stop, grace_seconds=grace),
    )
    return ending, events


def interrupt_when(condition: Path, *, times: int = 1) -> None:
    """Send this very process SIGTERM once `condition` exists (and again, `times` in all)."""

    def wait() -> None:
        while not condition.exists():
            time.sleep(0.02)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)

    threading.Thread(target=wait, daemon=True).start()


def test_events_are_read_and_every_byte_is_logged(tmp_path: Path) -> None:
    code = (
        'import sys; print(\'{"event": "phase", "name": "loading"}\');'
        "sys.stdout.write('10%\\r20%\\r'); print('último', file=sys.stderr);"
        'print(\'{"event": "failed", "kind": "oom", "text": "no memory"}\'); sys.exit(7)'
    )
    ending, events = run(tmp_path, code, StopRequest())
    assert ending.returncode == 7
    assert ending.signal is None
    assert events[0] == Phase(name="loading")
    assert ending.failed == Failed(kind="oom", text="no memory")
    assert ending.last_lines == ("10%", "20%", "último")
    assert b"10%\r20%\r" in (tmp_path / "engine.log").read_bytes()


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "2000"), ("TORCH_WARM_POOL", "0")])
def test_a_trainer_waits_shortly_and_starts_no_compilers_unless_the_user_sets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    code = f"import os; print(os.environ['{name}'])"
    monkeypatch.delenv(name, raising=False)
    assert run(tmp_path, code, StopRequest())[0].last_lines == (value,)
    monkeypatch.setenv(name, "7")
    assert run(tmp_path, code, StopRequest())[0].last_lines[-1] == "7"


def test_a_line_without_end_is_not_lost(tmp_path: Path) -> None:
    ending, _ = run(tmp_path, "import sys; sys.stdout.write('last words')", StopRequest())
    assert ending.last_lines == ("last words",)


def test_a_huge_line_does_not_fill_the_memory(tmp_path: Path) -> None:
    ending, _ = run(tmp_path, "print('x' * 1_000_000)", StopRequest())
    assert ending.returncode == 0
    assert max(len(line) for line in ending.last_lines) < 200_000


def test_sigterm_reaches_the_program_once_and_it_may_save(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import signal, sys, time, pathlib\n"
        "def save(*_):\n"
        "    print('saving'); time.sleep(0.5); print('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(60)\n"
    )
    with stop_on_signals() as stop:
        interrupt_when(ready)
        ending, _ = run(tmp_path, code, stop)
    assert ending.last_lines == ("saving", "saved")
    assert (ending.returncode, ending.signal) == (143, signal.SIGTERM)


@pytest.mark.parametrize(("times", "grace"), [(2, 60.0), (1, 0.5)])
def test_a_program_that_does_not_stop_is_ended(tmp_path: Path, times: int, grace: float) -> None:
    ready = tmp_path / "ready"
    code = (
        "import signal, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "while True: time.sleep(1)\n"
    )
    started = time.monotonic()
    with stop_on_signals() as stop:
        interrupt_when(ready, times=times)
        ending, _ = run(tmp_path, code, stop, grace=grace)
    assert ending.returncode == -signal.SIGKILL
    assert time.monotonic() - started < 10


def test_children_that_outlive_the_program_are_ended_too(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n"
    )
    started = time.monotonic()
    run(tmp_path, code, StopRequest())
    assert time.monotonic() - started < 10, "the child holds the pipe open; it must not be awaited"
    pid = int(pid_file.read_text())
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().split()[2]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child still runs")


def test_a_signal_before_the_start_stops_the_program_too(tmp_path: Path) -> None:
    stop = StopRequest(signal=signal.SIGTERM, times=1, requested_at=time.monotonic())
    ending, _ = run(tmp_path, "import time; time.sleep(60)", stop)
    assert ending.returncode == -signal.SIGTERM


def test_a_program_does_not_outlive_one_that_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    child = (
        f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()));"
    )
    follower = (
        "import os, sys, pathlib\n"
        "from tenner.core.command import Command\n"
        "from tenner.supervision.supervise import Control, StopRequest, follow\n"
        f"command = Command(argv=(sys.executable, '-c', {child + 'time.sleep(60)'!r}))\n"
        "control = Control(environ=dict(os.environ), stop=StopRequest(), grace_seconds=1)\n"
        "follow(command, read=lambda line: None, on_event=print, control=control,\n"
        f"  log=pathlib.Path({str(tmp_path / 'log')!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", follower])
    for _ in range(500):
        if pid_file.is_file() and pid_file.read_text():
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    pid = int(pid_file.read_text())
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child still runs")
