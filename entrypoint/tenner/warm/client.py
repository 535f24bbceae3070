"""One job of a warm worker: `python -m tenner.warm.client SOCKET MODULE ARGUMENTS…`.

It behaves as `python -m MODULE ARGUMENTS…`: the same output, signals and exit code. Where no worker
answers, or it is busy, this process executes that command itself. Standard library only, so that it
starts fast.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

MODULE = "tenner.warm.client"


def main(argv: Sequence[str]) -> int:
    """Run the job; returns its exit code, or does not return where no worker is free."""
    address, module, *arguments = argv
    try:
        worker = connect(Path(address), {"module": module, "arguments": arguments})
    except OSError:
        worker = None
    if worker is None:
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    return worker.follow()


class Connection:
    """A connection to a worker, with JSON lines in both directions."""

    def __init__(self, address: Path) -> None:
        """Raises OSError where no worker listens."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(address))
        except OSError:
            self._socket.close()
            raise
        self.lines = self._socket.makefile("rb")

    def send(self, message: dict[str, Any]) -> None:
        """Send a message. Raises OSError."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None where the worker has ended."""
        line = self.lines.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        self.lines.close()
        self._socket.close()

    def follow(self) -> int:
        """Print what the job prints, pass signals on, and return its exit code.

        Where the worker ends without an exit code it was killed, and this process kills itself.
        """

        def pass_on(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(OSError):
                self.send({"signal": number})

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pass_on)
        while (message := self.receive()) is not None:
            if "exit" in message:
                return int(message["exit"])
            sys.stdout.write(message.get("output", ""))
            sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        return 1


def connect(address: Path, request: dict[str, Any]) -> Connection | None:
    """A connection over which `request` is running; None where the worker is busy.

    Raises OSError where no worker listens, or it ends before it answers.
    """
    connection = Connection(address)
    connection.send(request)
    answer = connection.receive()
    if answer is None:
        connection.close()
        raise ConnectionError("the worker ended")
    if answer.get("busy"):
        connection.close()
        return None
    return connection


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
