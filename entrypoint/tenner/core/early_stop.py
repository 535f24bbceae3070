"""Prints a line where SIGTERM ends the program while no run handles the signal: at its start, or at
its end.

Only the standard library is used here: this is imported before all else.
"""

import contextlib
import os
import signal
from types import FrameType


def report_sigterm() -> None:
    """Have SIGTERM print a line before it ends this process as it would have. Handlers that are set
    already stay; a run sets its own for the time that it takes."""
    own = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() == own:  # and not a child that was forked
            with contextlib.suppress(OSError):
                os.write(2, b"stopped by SIGTERM\n")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        with contextlib.suppress(ValueError):  # in a thread of another program
            signal.signal(signal.SIGTERM, end)
