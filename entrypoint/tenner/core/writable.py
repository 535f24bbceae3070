"""Whether tenner may write to a folder, and why not.

A folder is judged by writing to it, as modes do not show a read-only mount, a quota or a full
disk.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from tenner.core.errors import MachineError, Problem, SettingsError
from tenner.core.messages import Message, msg
from tenner.core.temporary_files import part_of

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM)
_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
_NO_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ELOOP)


def make_writable(folder: Path, *, name: str) -> Path:
    """Make `folder` where it is missing and write to it. `name` is what messages call it.

    Raises MachineError where it may not be written to, SettingsError where it can be no folder.
    """
    if any("\ud800" <= char <= "\udfff" for char in str(folder.absolute())):
        raise SettingsError(
            msg(
                "{name} {folder} has bytes that are not UTF-8 in its name: no trainer opens"
                " files there",
                name=name,
                folder=folder.absolute(),
            ),
            fix=msg("rename the folder in plain letters, or start in another one"),
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = part_of(folder / "trial")
        try:
            trial.write_bytes(b"0")
        finally:
            with suppress(OSError):
                trial.unlink()
    except OSError as error:
        problem = unwritable(folder, error, name=name)
        kind = SettingsError if error.errno in (*_NO_FOLDER, *_NO_NAME) else MachineError
        raise kind(problems=[problem]) from None
    return folder


def require_temporary_folder() -> None:
    """Raise MachineError where no folder for temporary files can be written to."""
    import tempfile

    try:
        make_writable(Path(tempfile.gettempdir()), name=msg("the folder for temporary files"))
    except FileNotFoundError:
        tried = os.environ.get("TMPDIR") or "/tmp"
        raise MachineError(
            msg(
                "there is no folder for temporary files: {tried} is missing, full or may"
                " not be written to by uid {geteuid}",
                tried=tried,
                geteuid=os.geteuid(),
            ),
            fix=msg(
                "mount one (docker run --tmpfs /tmp), or set TMPDIR to a folder with free space"
            ),
        ) from None


def unwritable(path: Path, error: OSError, *, name: str = "") -> Problem:
    """`error` at `path` as a problem with its fix."""
    shown = f"{name} {path.absolute()}" if name else str(path.absolute())
    there, owner = _nearest(path.absolute())
    match error.errno:
        case number if number in _FULL:
            text = msg(
                "{shown} cannot be written: {strerror}", shown=shown, strerror=error.strerror
            )
            return Problem(
                text=text, fix=msg("free space there, or name a folder on a larger disk")
            )
        case errno.EROFS:
            return Problem(
                text=msg(
                    "{shown} cannot be written: {there} is on a read-only file system",
                    shown=shown,
                    there=there,
                ),
                fix=msg(
                    "mount it without :ro (--read-only needs a volume there), or name"
                    " another folder"
                ),
            )
        case number if number in _DENIED:
            text = msg(
                "{shown} cannot be used: {there} belongs to {owner}, and tenner runs as uid {uid}",
                shown=shown,
                there=there,
                owner=owner,
                uid=os.geteuid(),
            )
            return Problem(text=text, fix=_ownership_fix(there))
        case number if number in _NO_FOLDER:
            text = msg("{shown} cannot be a folder: {there} is a file", shown=shown, there=there)
            return Problem(text=text, fix=msg("name another folder, or move that file away"))
        case _:
            text = msg(
                "{shown} cannot be used: {strerror}", shown=shown, strerror=error.strerror or error
            )
            return Problem(text=text, fix=msg("name another folder, or repair that one"))


def _ownership_fix(path: Path) -> Message:
    return msg(
        "let this user use it (chown -R {geteuid} {path}), start with its owner's uid"
        " (docker run --user), or name another folder",
        geteuid=os.geteuid(),
        path=path,
    )


def _nearest(path: Path) -> tuple[Path, str]:
    """The nearest part of `path` that exists and can be read, and its owner with its mode."""
    for each in (path, *path.parents):
        try:
            found = each.stat()
        except OSError:
            continue
        mode = f"mode {stat.S_IMODE(found.st_mode):o}"
        return each, msg(
            "uid {st_uid}{user_name} ({mode})",
            st_uid=found.st_uid,
            user_name=_user_name(found.st_uid),
            mode=mode,
        )
    return path, msg("an unknown user")


def _user_name(uid: int) -> str:
    try:
        import pwd

        return f" {pwd.getpwuid(uid).pw_name}"
    except (ImportError, KeyError):
        return ""
