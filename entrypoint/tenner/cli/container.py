"""How the image starts a command of tenner: as the owner of the folder that it writes to.

`docker/start.sh` starts this, by way of `tenner.cli.start`, in place of `tenner`. As root it finds
that folder by the command's own rules (flags, variables, settings file), so that what is written
belongs to whoever mounted it, reads secrets that only root may read, and becomes the owner. Where
the container lacks the privileges for it the command runs as it was started.
"""

import os
import re
import tempfile
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tenner.cli.command_line import parse_command_line
from tenner.cli.main import main, written_folder
from tenner.core.errors import Problem, SettingsError, TennerError
from tenner.core.messages import msg
from tenner.core.secrets import KNOWN_NAMES, secrets_from
from tenner.settings.environment import unquote
from tenner.ui.screen import make_screen

LARGEST_ID = 2**32 - 2
"""Of users and groups; the number above means "none" to the kernel."""
_CAPABILITIES = {"SETGID": 6, "SETUID": 7}
"""Their bits, as in linux/capability.h."""
_CREATES = ("train", "batch", "demo")
"""Commands whose output folder is made here for a user that PUID names."""


@dataclass(frozen=True, kw_only=True)
class User:
    """The user to become. `named` is true where PUID or PGID name it."""

    uid: int
    gid: int
    named: bool


def run_in_container(arguments: Sequence[str]) -> int:
    """Become the owner of what the command writes to, and run it. Returns its exit code."""
    if os.geteuid() == 0 and arguments:
        try:
            _leave_root(arguments, os.environ)
        except TennerError as error:
            _say(*error.problems)
            return error.exit_code
    return main(arguments)


def _leave_root(arguments: Sequence[str], environ: MutableMapping[str, str]) -> None:
    """Raises SettingsError where PUID or PGID name nobody, or the command is none."""
    unquote(environ)
    parsed = parse_command_line(arguments)
    try:
        folder = written_folder(parsed, environ)
    except (TennerError, OSError):
        folder = Path("output")  # the command reports what is wrong, and writes nothing
    folder = folder.expanduser().absolute()
    user = find_user(folder, environ)
    if (user.uid, user.gid) == (0, 0):
        return
    if missing := _missing_capabilities():
        text = msg(
            "runs as root: to become uid {uid} the container lacks {missing}",
            uid=user.uid,
            missing=", ".join(missing),
        )
        _say(Problem(text=text, level="note"))
        return
    _keep_secrets(environ)
    if user.named and parsed.command in _CREATES:
        _create_for(user, folder)
    _become(user, environ)


def find_user(folder: Path, environ: Mapping[str, str]) -> User:
    """PUID and PGID, else the owner of `folder`, or of the nearest folder above it that is there.

    Raises SettingsError where they are no numbers of users.
    """
    there = next(each for each in (folder, *folder.parents) if each.exists())
    owner = there.stat()
    given = {name: environ.get(name, "").strip() for name in ("PUID", "PGID")}
    wrong = [
        f"{name}={text}"
        for name, text in given.items()
        if text and not (re.fullmatch(r"[0-9]{1,10}", text) and int(text) <= LARGEST_ID)
    ]
    if wrong:
        raise SettingsError(
            msg(
                "{wrong}: expected a number from 0 to {largest_id}",
                wrong=" and ".join(wrong),
                largest_id=LARGEST_ID,
            ),
            fix=msg("set them to what `id -u` and `id -g` print, or remove them"),
        )
    if given["PUID"] == "0" and not given["PGID"]:
        return User(uid=0, gid=0, named=True)
    return User(
        uid=int(given["PUID"] or owner.st_uid),
        gid=int(given["PGID"] or owner.st_gid),
        named=any(given.values()),
    )


def _missing_capabilities() -> list[str]:
    """What this process lacks to become another user; empty where the kernel does not show it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return []
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    if found is None:
        return []
    held = int(found[1], 16)
    return [f"CAP_{name}" for name, bit in _CAPABILITIES.items() if not held >> bit & 1]


def _keep_secrets(environ: MutableMapping[str, str]) -> None:
    """Put what `NAME_FILE` names into `NAME`: the file may be root's alone. What cannot be read is
    left for the command to report."""
    secrets, _ = secrets_from(environ)
    for name in KNOWN_NAMES:
        value = secrets.get(name)
        if value and environ.get(f"{name}_FILE") and not environ.get(name, "").strip():
            environ[name] = value
            del environ[f"{name}_FILE"]


def _create_for(user: User, folder: Path) -> None:
    """Make what is missing of `folder`, for a user who may not write beside it."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    with suppress(OSError):
        for each in reversed(missing):
            each.mkdir()
            os.chown(each, user.uid, user.gid)


def _become(user: User, environ: MutableMapping[str, str]) -> None:
    """Change to `user`, for good. Groups that the container was given (--group-add) stay.

    Raises SettingsError where PUID or PGID is not one of this container's users.
    """
    import ctypes  # now: a Python in root's home is out of reach afterwards

    groups = os.getgroups()
    try:
        os.setgroups([each for each in groups if each != 0])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        with suppress(OSError):
            os.setresgid(0, 0, 0)
            os.setgroups(groups)
        text = msg(
            "cannot become uid {uid}, gid {gid}: {strerror}",
            uid=user.uid,
            gid=user.gid,
            strerror=error.strerror,
        )
        if user.named:
            fix = msg("name a user of this container in PUID and PGID, or remove them")
            raise SettingsError(text, fix=fix) from None
        _say(Problem(text=msg("runs as root: {text}", text=text), level="note"))
        return
    # Give /proc/self back to this process: after a change of user it is root's, until a program is
    # started anew.
    ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE
    home = environ.get("HOME", "")
    if home in ("", "/") or not os.access(home, os.W_OK | os.X_OK):
        environ["HOME"] = _new_home()


def _new_home() -> str:
    """A folder for caches, as a user without an entry in passwd has none."""
    try:
        return tempfile.mkdtemp(prefix="home.")
    except OSError:
        return "/tmp"


def _say(*problems: Problem) -> None:
    screen = make_screen()
    for problem in problems:
        screen.problem(problem)
