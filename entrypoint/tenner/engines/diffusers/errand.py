"""One piece of work for a warm worker: `python -m tenner.engines.diffusers.errand SOCKET MODULE …`.

Looks from outside like `python -m MODULE …`: the same output, a signal stops it, the same end. The
work is done by the worker behind SOCKET, which has everything loaded. Where none answers, or it is
busy, this process becomes `python -m MODULE …` itself. Standard library only: it starts at once.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

MODULE = "tenner.engines.diffusers.errand"
BEGUN, STOP = b"begun\n", b"stop\n"
"""What a worker says when it has the work, and what it is told to have it end."""
_BLOCK_BYTES = 65_536
_SECONDS_FOR_ENDING = 5.0


def queue_file(address: Path) -> Path:
    """Locked by the errand that the worker behind `address` is busy with."""
    return address.with_suffix(".queue")


def ending_file(address: Path) -> Path:
    """Where whoever started the worker writes how it ended, as a returncode."""
    return address.with_suffix(".ended")


def main(words: Sequence[str]) -> int:
    """Returns the exit code of the work, or does not return."""
    address, module, *arguments = words
    queue = queue_file(Path(address)).open("a")
    asked = json.dumps({"module": module, "arguments": arguments}).encode()
    try:
        fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
        worker, output = _hand_over(asked, Path(address))
    except OSError:
        queue.close()
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    with queue, worker:

        def stop(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(OSError):
                worker.sendall(STOP)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        return _follow(worker, output, Path(address))


def _hand_over(asked: bytes, address: Path) -> tuple[socket.socket, int]:
    """The connection to a worker that has begun, and the pipe that its output comes through.

    Raises OSError where none listens, or it ends before it begins.
    """
    outside, inside = os.pipe()
    worker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        worker.connect(str(address))
        socket.send_fds(worker, [asked], [inside])
        if worker.recv(len(BEGUN)) != BEGUN:
            raise ConnectionError("the worker ended")
    except OSError:
        worker.close()
        raise
    finally:
        os.close(inside)
    return worker, outside


def _follow(worker: socket.socket, output: int, address: Path) -> int:
    """Pass on what comes out of the work, and end as it ends."""
    while block := os.read(output, _BLOCK_BYTES):
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
    with worker.makefile("rb") as answer:
        line = answer.readline()
    code = int(line) if line.strip() else _returncode(address)
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _returncode(address: Path) -> int:
    """How the worker ended that said nothing."""
    until = time.monotonic() + _SECONDS_FOR_ENDING
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            return int(ending_file(address).read_text(encoding="ascii"))
        time.sleep(0.05)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
