"""Work beside a training that must not slow it: it gets the time that nothing else wants.

Where the system knows no such thing, it is done as everything else.
"""

import contextlib
import os
import shutil
import threading
from dataclasses import replace

from tenner.core.command import Command

NICE = 10
"""How far such work stands behind: at 10 a tenth of what an equal would get, where all cores are
wanted (Linux weighs 1024 against 110)."""


def lower_thread_priority() -> None:
    """Let this thread, and those that it starts, stand behind. Threads have priorities of their
    own on Linux alone."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def with_low_priority(command: Command) -> Command:
    """The command as one that stands behind from its start."""
    if shutil.which("nice") is None:
        return command
    return replace(command, argv=("nice", "-n", str(NICE), *command.argv))
