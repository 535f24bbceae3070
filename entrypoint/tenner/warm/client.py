"""One job of a warm worker: `python -m tenner.warm.client SOCKET MODULE ARGUMENTS…`.

From outside it is `python -m MODULE ARGUMENTS…`: the same output, signals and exit code. Where no
worker answers, or it is busy, this process becomes that command itself. Standard library only, so
that it starts at once.
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


def main(words: Sequence[str]) -> int:
    """Returns the exit code of the job, or does not return."""
    address, module, *arguments = words
    try:
        worker = connect(Path(address), {"module": module, "arguments": arguments})
    except OSError:
        worker = None
    if worker is None:
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    return worker.follow()


class Connection:
    """A connection to a worker, `lines` being the JSON lines that come from it."""

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
        """Raises OSError."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None where the worker is gone."""
        line = self.lines.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        self.lines.close()
        self._socket.close()

    def follow(self) -> int:
        """Print what the job prints, pass signals on, and return its exit code.

        A worker that goes without a last word was killed, and so is this process.
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
    """A connection on which `request` is under way; None where the worker is busy.

    Raises OSError where none listens, or it ends before it has begun.
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
