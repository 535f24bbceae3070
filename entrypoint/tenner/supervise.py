"""Start a program, follow what it says, and stop it when asked: once, and whole.

The program gets its own session, so that a signal to the container reaches it through this
module alone and never twice. Its output goes to a log as it is, and to `read` line by line; the
supervisor knows nothing of trainers.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from tenner.engines import Command, ReadLine
from tenner.events import Event, Failed
from tenner.guards import StallGuard

_MAX_LINE_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a program ended. `signal` is the one that stopped this run, where one did."""

    returncode: int
    signal: int | None = None
    failed: Failed | None = None
    last_lines: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(kw_only=True)
class StopRequest:
    """Whether a signal asked this run to end; shared between the handler and the loop."""

    signal: int | None = None
    times: int = 0
    asked_at: float = 0.0
    pids: set[int] = field(default_factory=set[int])


@contextlib.contextmanager
def stop_on_signals() -> Generator[StopRequest]:
    """SIGTERM and SIGINT ask for an orderly end; a second one ends the running program at once."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        request.signal = number
        request.times += 1
        request.asked_at = request.asked_at or time.monotonic()
        for pid in request.pids:
            _signal_group(pid, signal.SIGTERM if request.times == 1 else signal.SIGKILL)
        if request.times > 1 and not request.pids:
            raise KeyboardInterrupt

    before = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow(
    command: Command,
    *,
    read: ReadLine,
    on_event: Callable[[Event], None],
    log: Path,
    environ: Mapping[str, str],
    stop: StopRequest,
    grace_seconds: float,
    tick: Callable[[], None] | None = None,
    guard: StallGuard | None = None,
) -> Ending:
    """Run `command` to its end. `tick` is called about once a second. Where `guard` finds that
    the program hangs, it is ended; unless it named a failure itself, that is the failure.

    After a first signal the program has `grace_seconds` to end by itself. Raises OSError where the
    program cannot be started.
    """
    started = time.monotonic()
    tail: deque[str] = deque(maxlen=40)
    failures: list[Failed] = []

    def on_silence() -> None:
        failed = guard.stalled() if guard and stop.signal is None else None
        if failed is not None:
            failures.extend([] if failures else [failed])  # the program's own words say more
            _signal_group(process.pid, signal.SIGKILL)

    with log.open("ab") as log_file:
        process = subprocess.Popen(
            command.argv,
            env={**environ, **command.env},
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        stop.pids.add(process.pid)
        if stop.signal is not None:  # it came between the last check and the start
            _signal_group(process.pid, signal.SIGTERM)
        try:
            output = process.stdout.fileno()
            for line in _lines(
                output, log_file, stop, process.pid, grace_seconds, tick, on_silence
            ):
                event = read(line)
                if guard:
                    guard.heard(event)
                if isinstance(event, Failed):
                    failures.append(event)
                if event is None:
                    tail.append(line)
                else:
                    on_event(event)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            # Not yet waited for, so the group's number cannot be another's: end what outlived it.
            _signal_group(process.pid, signal.SIGKILL)
            process.stdout.close()
            returncode = process.wait()
            stop.pids.discard(process.pid)
    return Ending(
        returncode=returncode,
        signal=stop.signal,
        failed=failures[-1] if failures else None,
        last_lines=tuple(tail),
        seconds=time.monotonic() - started,
    )


def _lines(
    output: int,
    log: BinaryIO,
    stop: StopRequest,
    pid: int,
    grace_seconds: float,
    tick: Callable[[], None] | None,
    on_silence: Callable[[], None],
) -> Iterator[str]:
    """The program's lines as they come; a carriage return ends a line too (progress bars)."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            ready = selector.select(timeout=1.0)
            if tick:
                tick()
            late = stop.signal is not None and time.monotonic() - stop.asked_at > grace_seconds
            if late or (not ready and _has_exited(pid)):
                _signal_group(pid, signal.SIGKILL)  # children that hold the output open, too
            if not ready:
                on_silence()
                continue
            chunk = os.read(output, _MAX_LINE_BYTES)
            if not chunk:
                break
            log.write(chunk)
            log.flush()
            *whole, pending = (pending + chunk).replace(b"\r", b"\n").split(b"\n")
            if len(pending) > _MAX_LINE_BYTES:
                whole, pending = [*whole, pending], b""
            yield from (each.decode(errors="replace") for each in whole if each.strip())
    if pending.strip():
        yield pending.decode(errors="replace")


def _has_exited(pid: int) -> bool:
    """Whether the process ended, leaving it to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
