"""A child process that does not outlive this program, even where that is killed.

An engine whose program is gone would continue to write into the run's directory, beside the engine
of the next start. On Linux the kernel ends it: a small Python program requests that for itself
(`prctl` with PR_SET_PDEATHSIG, in effect after execve too) and then executes the program that was
to be started. Elsewhere the command is returned unchanged.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence

_WITH_PARENT = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"  # PR_SET_PDEATHSIG, which lasts across execve
    "parent, program = int(sys.argv[1]), sys.argv[2]\n"
    "os.getppid() == parent or sys.exit(1)\n"  # the parent ended before prctl
    "os.execv(program, sys.argv[2:])\n"
)

_WITH_LAUNCHER = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "os.getppid() == 1 and sys.exit(1)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


def dying_with_launcher(python: str, words: Sequence[str]) -> tuple[str, ...]:
    """The arguments `words` for `python` as a command (argv) that is killed when the launcher that
    starts it ends.

    Launchers give each worker a session of its own, where no signal to their group arrives.
    """
    if not sys.platform.startswith("linux"):
        return (python, *words)
    return (python, "-I", "-S", "-c", _WITH_LAUNCHER, python, *words)


def dying_with_parent(argv: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """`argv` as a command that is killed when this program ends. Raises FileNotFoundError where
    PATH in `environ` has no such program."""
    program = shutil.which(argv[0], path=environ.get("PATH"))
    if program is None:
        raise FileNotFoundError(2, "no such program", argv[0])
    if not sys.platform.startswith("linux"):
        return list(argv)
    # Isolated and without site-packages: the child's environment does not affect it.
    here = os.path.abspath(program)  # noqa: PTH100  links are not resolved: a venv needs its own path
    return [sys.executable, "-I", "-S", "-c", _WITH_PARENT, str(os.getpid()), here, *argv[1:]]
