"""Full and failed disks: which errors mean that, and how it is reported.

Only the standard library is used here: the trainer's process imports this module.
"""

import errno
import re
import shutil
from pathlib import Path

from tenner.core.errors import Problem
from tenner.core.messages import msg

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_NUMBERS = _FULL | {errno.EIO, errno.EROFS}
_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|Read-only file system|Input/output error"
    r"|StorageFull|PytorchStreamWriter failed writing|inline_container.*unexpected pos"
)
"""torch and safetensors write past Python, with error texts of their own."""


TAKES_NO_MORE = "the disk takes no more"


def is_disk_trouble(error: BaseException) -> bool:
    """Whether an error means that a disk is full, over its quota, read-only or broken."""
    if isinstance(error, OSError):
        return error.errno in _NUMBERS
    return _WORDS.search(str(error)) is not None


def cause_in_disk(error: BaseException) -> OSError | None:
    """The error of a disk that `error` is, or was raised from."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and is_disk_trouble(found):
            return found
        found = found.__cause__
    return None


def disk_failure(error: BaseException, path: Path) -> Problem:
    """How it is reported: the file or folder, the system's error, and what is free there.

    `path` is used where the error names no file.
    """
    named = error.filename if isinstance(error, OSError) else None
    where = Path(str(named)) if isinstance(named, str | Path) else path
    why = (error.strerror if isinstance(error, OSError) else "") or str(error).splitlines()[0]
    is_full = not isinstance(error, OSError) or error.errno in _FULL
    text = msg(
        "the disk takes no more: {where}: {why}{free_words}",
        where=where.absolute(),
        why=why,
        free_words=free_words(where),
    )
    if is_full:
        return Problem(
            text=text,
            fix=msg(
                "free space there, or set output_dir to a larger disk; then the same command"
                " resumes"
            ),
        )
    return Problem(
        text=text,
        fix=msg(
            "the disk is broken or read-only: mount it anew, or use another one; then the"
            " same command resumes"
        ),
    )


def free_words(path: Path) -> str:
    """What is free on the disk of a file or folder, in words to append; empty if not known."""
    for each in (path, *path.absolute().parents):
        try:
            usage = shutil.disk_usage(each)
        except OSError:
            continue
        return msg(
            " ({free} of {total} MB are free)",
            free=f"{usage.free / 1000000.0:.1f}",
            total=f"{usage.total / 1000000.0:.0f}",
        )
    return ""
