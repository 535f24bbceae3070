"""Start a program, follow its output, and stop it on request: once, with all its children.

The program gets its own session, so that a signal to the container reaches it only through this
module, and once. Its output is written to a log unchanged, and passed to `read` line by line;
nothing here depends on a certain trainer.
"""

import contextlib
import io
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tenner.core.command import CHILD_DEFAULTS, Command, ReadLine
from tenner.core.events import Event, Failed
from tenner.core.parent_death import dying_with_parent
from tenner.supervision.guards import Guard, Guards, Verdict

_MAX_LINE_BYTES = 65_536
_CHECK_SECONDS = 0.9
PATIENCE_SECONDS = 120.0
"""The time for an engine to save after a guard's request: on a slow disk, a minute."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a program ended: `signal` is the signal to this run that stopped it, `ended_by` the
    verdict of the guard that did; None where there was none."""

    returncode: int
    signal: int | None = None
    ended_by: Verdict | None = None
    failed: Failed | None = None
    last_lines: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(kw_only=True)
class StopRequest:
    """Whether a signal or a caller has requested the end of this run.

    Shared between the one that requests it and the loop that follows the program.
    """

    signal: int | None = None
    times: int = 0
    requested_at: float = 0.0
    pids: set[int] = field(default_factory=set[int])
    ends_at_once: bool = False

    def request(self, number: int) -> None:
        """Request an orderly end, as the signal `number` does; the second time an immediate one."""
        self.signal = number
        self.times += 1
        self.requested_at = self.requested_at or time.monotonic()
        for pid in tuple(self.pids):
            _signal_group(pid, signal.SIGTERM if self.times == 1 else signal.SIGKILL)

    @contextlib.contextmanager
    def at_once(self) -> Generator[None]:
        """A context in which a first signal raises KeyboardInterrupt: nothing can be lost yet."""
        self.ends_at_once = True
        try:
            if self.signal is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self.ends_at_once = False

    def wait(self, seconds: float) -> None:
        """Wait `seconds`, or until a signal requests the end."""
        until = time.monotonic() + seconds
        while self.signal is None and time.monotonic() < until:
            time.sleep(0.1)

    def seconds_left(self, grace_seconds: float) -> float:
        """The seconds left of the grace time: all before a first signal, 0 after a second one."""
        if self.times > 1:
            return 0.0
        gone = time.monotonic() - self.requested_at if self.signal is not None else 0.0
        return max(0.0, grace_seconds - gone)


@dataclass(frozen=True, kw_only=True)
class Control:
    """The environment of a run's program, and how it is stopped.

    `stop` is the run's request to end, `grace_seconds` the time that the program has to end by
    itself after a signal.
    """

    environ: Mapping[str, str]
    stop: StopRequest
    grace_seconds: float


@contextlib.contextmanager
def stop_on_signals() -> Generator[StopRequest]:
    """SIGTERM and SIGINT request an orderly end; a second one ends the running program at once."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        request.request(number)
        if (request.times > 1 and not request.pids) or request.ends_at_once:
            raise KeyboardInterrupt

    before = {each: signal.signal(each, handle) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(kw_only=True)
class _Program:
    """A running program, and how its end was requested: by a signal to this run, or a guard."""

    pid: int
    stop: StopRequest
    grace_seconds: float
    patience_seconds: float
    on_event: Callable[[Event], None]
    verdict: Verdict | None = None
    requested_at: float = 0.0
    failures: list[Failed] = field(default_factory=list[Failed])

    def judge(self, verdicts: Sequence[Verdict]) -> None:
        """Emit the guards' events and end the program where they request it. A failure that the
        program itself reported has priority."""
        for each in verdicts:
            if isinstance(each.event, Failed):
                self.failures.extend([] if self.failures else [each.event])
            if each.event is not None:
                self.on_event(each.event)
            if each.end == "no" or self.stop.signal is not None:
                continue
            if self.verdict is None:
                self.verdict, self.requested_at = each, time.monotonic()
                _signal_group(self.pid, signal.SIGTERM if each.end == "save" else signal.SIGKILL)
            elif each.end == "now":
                _signal_group(self.pid, signal.SIGKILL)

    def end_if_late(self, *, quiet: bool) -> None:
        """Kill the program after its time, and its children that hold the output open after it."""
        now = time.monotonic()
        late = self.stop.signal is not None and now - self.stop.requested_at > self.grace_seconds
        overdue = self.verdict is not None and now - self.requested_at > self.patience_seconds
        if late or overdue or (quiet and _has_exited(self.pid)):
            _signal_group(self.pid, signal.SIGKILL)


def follow(
    command: Command,
    *,
    read: ReadLine,
    on_event: Callable[[Event], None],
    log: Path,
    control: Control,
    guards: Sequence[Guard] = (),
    patience_seconds: float = PATIENCE_SECONDS,
) -> Ending:
    """Run `command` to its end, watched by `guards`; its output is appended to `log`.

    After a first signal the program has the grace time of `control` to end by itself, and
    `patience_seconds` where a guard requested the end. Raises OSError where the program cannot be
    started.
    """
    stop = control.stop
    started = time.monotonic()
    tail: deque[str] = deque(maxlen=40)
    watch = Guards(each=guards)
    environ = {**CHILD_DEFAULTS, **control.environ, **command.env}
    with log.open("ab", buffering=0) as log_file:
        process = subprocess.Popen(
            dying_with_parent(command.argv, environ),
            env=environ,
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        stop.pids.add(process.pid)
        if stop.signal is not None:  # received between the last check and the start
            _signal_group(process.pid, signal.SIGTERM)
        program = _Program(
            pid=process.pid,
            stop=stop,
            grace_seconds=control.grace_seconds,
            patience_seconds=patience_seconds,
            on_event=on_event,
        )
        try:
            for line in _lines(process.stdout.fileno(), log_file, program, watch):
                event = read(line)
                if event is None:
                    tail.append(line)
                while True:
                    if isinstance(event, Failed):
                        program.failures.append(event)
                    if event is not None:
                        on_event(event)
                    program.judge(watch.handle(event))
                    event = read("") if event else None  # a line may hold several events
                    if event is None:
                        break
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            # Before `wait`, while the group's number cannot be reused: kill remaining children.
            _signal_group(process.pid, signal.SIGKILL)
            process.stdout.close()
            returncode = process.wait()
            stop.pids.discard(process.pid)
    return Ending(
        returncode=returncode,
        signal=stop.signal,
        ended_by=program.verdict,
        failed=program.failures[-1] if program.failures else None,
        last_lines=tuple(tail),
        seconds=time.monotonic() - started,
    )


def _lines(output: int, log: io.RawIOBase, program: _Program, watch: Guards) -> Iterator[str]:
    """The program's lines as they come; a carriage return ends a line too (progress bars)."""
    pending = b""
    checked_at = 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            ready = selector.select(timeout=1.0)
            program.end_if_late(quiet=not ready)
            if time.monotonic() - checked_at >= _CHECK_SECONDS:
                checked_at = time.monotonic()
                program.judge(watch.check())
            if not ready:
                continue
            chunk = os.read(output, _MAX_LINE_BYTES)
            if not chunk:
                break
            with contextlib.suppress(OSError):  # a full disk: the lines are read all the same
                log.write(chunk)
            *whole, pending = (pending + chunk).replace(b"\r", b"\n").split(b"\n")
            if len(pending) > _MAX_LINE_BYTES:
                whole, pending = [*whole, pending], b""
            yield from (each.decode(errors="replace") for each in whole if each.strip())
    if pending.strip():
        yield pending.decode(errors="replace")


def _has_exited(pid: int) -> bool:
    """Whether the process ended; it can still be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
