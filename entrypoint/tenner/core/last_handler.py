"""Unexpected errors as messages: no traceback is shown to the user.

The full report goes into a file, without secrets, and the exit code is one of those in README.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tenner import __version__
from tenner.core.disk_errors import cause_in_disk, disk_failure
from tenner.core.errors import InternalError, MachineError, Problem, TennerError
from tenner.core.messages import msg
from tenner.core.secrets import redact_shapes, secrets_from
from tenner.core.writable import unwritable


def as_tenner_error(
    error: BaseException, environ: Mapping[str, str], *, folders: Sequence[Path] = ()
) -> TennerError:
    """`error` in the user's words, with the path of its full report.

    The report is written to the first of `folders`, the temporary folder, the home and the working
    folder that can be written to.
    """
    if isinstance(error, TennerError):
        return error
    if disk := cause_in_disk(error):
        return MachineError(problems=[disk_failure(disk, next(iter(folders), Path.cwd()))])
    report_path = write_report(error, environ, folders=folders)
    found = _in_words(
        error,
        msg("; the full report is {report_path}", report_path=report_path) if report_path else "",
    )
    redact = secrets_from(environ)[0].redact
    clean = [Problem(text=redact(each.text), fix=redact(each.fix)) for each in found.problems]
    return type(found)(problems=clean)


def _in_words(error: BaseException, where: str) -> TennerError:
    """An error that nothing else handled, as a TennerError; `where` names its report."""
    match error:
        case MemoryError():
            return MachineError(
                msg("this machine's memory is full{where}", where=where),
                fix=msg(
                    "end other programs, raise the container's limit (docker run --memory),"
                    " or rent a machine with more RAM"
                ),
            )
        case OSError() if error.filename is not None:
            problem = unwritable(Path(os.fsdecode(error.filename)), error)
            text = msg("{text}{where}", text=problem.text, where=where)
            return MachineError(problems=[Problem(text=text, fix=problem.fix)])
        case OSError():
            cause = error.strerror or str(error) or type(error).__name__
            fix = msg("free its disk, memory and open files, or rent another machine")
            return MachineError(
                msg("this machine refuses: {cause}{where}", cause=cause, where=where), fix=fix
            )
        case _:
            cause = _first_line(error)
            return InternalError(
                msg("tenner met a fault of its own: {cause}{where}", cause=cause, where=where),
                fix=msg(
                    "start it again: a run resumes from its last state; if it happens"
                    " again, open an issue with that report"
                ),
            )


def write_report(
    error: BaseException, environ: Mapping[str, str], *, folders: Sequence[Path] = ()
) -> Path | None:
    """Write what happened, without secrets, where it can be written. None where nowhere is."""
    try:
        text = _report(error, environ)
    except Exception:  # noqa: BLE001  a report that cannot be made must not hide the fault
        return None
    name = f"tenner-error-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    for folder in (*folders, *_usual_folders()):
        path = folder / name
        with contextlib.suppress(OSError, ValueError):
            with path.open("x", encoding="utf-8", errors="backslashreplace") as out:
                out.write(text)
            return path
    return None


def handle_threads(environ: Mapping[str, str]) -> None:
    """Report errors in threads as messages too."""

    def handle(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is None or isinstance(arguments.exc_value, SystemExit):
            return
        for problem in as_tenner_error(arguments.exc_value, environ).problems:
            with contextlib.suppress(OSError, ValueError):
                print(f"warning: {redact_shapes(str(problem))}", file=sys.stderr)

    threading.excepthook = handle


def _usual_folders() -> list[Path]:
    import tempfile

    found: list[Path] = []
    for locate in (tempfile.gettempdir, Path.home, Path.cwd):
        with contextlib.suppress(OSError, RuntimeError):
            found.append(Path(locate()))
    return found


def _report(error: BaseException, environ: Mapping[str, str]) -> str:
    import platform
    import traceback

    about = f"tenner {__version__}, Python {platform.python_version()}, {platform.platform()}"
    lines = "".join(traceback.format_exception(error, limit=60))
    return secrets_from(environ)[0].redact(f"{about}\n{sys.argv[1:2]}\n\n{lines}")


def _first_line(error: BaseException) -> str:
    line = next(iter(str(error).splitlines()), "")
    name = type(error).__name__
    return msg("{name}: {line}", name=name, line=line[:200]) if line else name
