"""Low priority for work beside a training, which must not slow it down.

Where the system has no priorities, it runs with the usual one.
"""

import contextlib
import os
import shutil
import threading
from dataclasses import replace

from tenner.core.command import Command

NICE = 10
"""The niceness of such work: at 10 it gets a tenth of what it would get at 0 where all cores are
busy (Linux weighs 1024 against 110)."""


def lower_thread_priority() -> None:
    """Lower the priority of this thread and those that it starts. Only on Linux do threads have
    priorities of their own."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def with_low_priority(command: Command) -> Command:
    """The command, started with a low priority."""
    if shutil.which("nice") is None:
        return command
    return replace(command, argv=("nice", "-n", str(NICE), *command.argv))
