"""One program at a time in a run's directory: two would overwrite each other's files."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Generator

from tenner.core.errors import SettingsError
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.hardware.mounts import in_container


@contextlib.contextmanager
def lock_run(run_dir: RunDir) -> Generator[None]:
    """Lock the run's directory. The kernel releases the lock when the process ends.

    Raises SettingsError where another program has locked it. On a file system without locks (some
    network mounts) there is none.
    """
    with (run_dir.path / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or msg("another process")
            raise SettingsError(
                msg("{path} is in use by {holder}", path=run_dir.path, holder=holder),
                fix=msg("wait for it or stop it, or choose another output_name"),
            ) from None
        except OSError:
            pass
        with contextlib.suppress(OSError):  # on a full disk the lock has no name
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), _this_process().encode(), 0)
        yield


def _this_process() -> str:
    """This process's name in the lock, for programs on this machine and in other containers.

    A container's host name is its id, unless `--hostname` gave it another.
    """
    where = "container" if in_container(os.environ) else "host"
    return f"process {os.getpid()} on {where} {socket.gethostname()}"
