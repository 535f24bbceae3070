"""Delivery into a folder: copied under a temporary name, read back, then renamed to the final
one."""

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex

from tenner.core.checksums import HashedFile, changed_since, hash_file
from tenner.core.errors import Problem
from tenner.core.files import sync_directory
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, TransientError
from tenner.core.temporary_files import part_of
from tenner.storage.destination import Destination
from tenner.storage.permissions import ALL_PERMISSIONS, Permissions
from tenner.storage.store import OnBytes

_BLOCK_BYTES = 1 << 20
_PASSING = (errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR)


class FolderStore:
    """A folder on a local or mounted disk."""

    whole_sets = False

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self._root = Path(destination.root)

    def probe(self, deadline: Deadline) -> tuple[Problem, ...]:
        probe = self._root / f".tenner-check-{token_hex(4)}"
        content = token_hex(16).encode()
        missing = _missing_folders(self._root)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            _write_synced(probe, content)
            if probe.read_bytes() != content:
                return (
                    Problem(
                        text=msg("{root} gives back other bytes than were written", root=self._root)
                    ),
                )
            probe.unlink()
        except OSError as error:
            return (_problem(self._root, error),)
        finally:
            _remove_quietly(probe, missing)
        return ()

    def permissions(self, deadline: Deadline) -> Permissions:
        return ALL_PERMISSIONS

    def missing(self, files: Sequence[HashedFile], deadline: Deadline) -> tuple[HashedFile, ...]:
        return tuple(file for file in files if not self._holds(file))

    def _holds(self, file: HashedFile) -> bool:
        remote = self._root / file.name
        try:
            return remote.stat().st_size == file.size and hash_file(remote)[1] == file.sha256
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _trouble(remote, error) from error

    def put(
        self,
        files: Sequence[HashedFile],
        deadline: Deadline,
        on_bytes: OnBytes,
        gone: Sequence[str] = (),
    ) -> None:
        for file in files:
            target = self._root / file.name
            try:
                self._put_one(file, target, deadline, on_bytes)
            except OSError as error:
                raise _trouble(target, error) from error
        self.delete(gone, deadline)

    def _put_one(
        self, file: HashedFile, target: Path, deadline: Deadline, on_bytes: OnBytes
    ) -> None:
        """Copy one file under a temporary name, compare what is read back with its hash, and rename
        it."""
        target.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(target)
        try:
            with file.path.open("rb") as source, part.open("xb") as out:
                while block := source.read(_BLOCK_BYTES):
                    deadline.check()
                    out.write(block)
                    on_bytes(len(block))
                out.flush()
                os.fsync(out.fileno())
            if hash_file(part) != (file.size, file.sha256):
                if changed := changed_since(file):
                    raise PermanentError(changed)
                raise TransientError(msg("{target} did not come out as it was sent", target=target))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        sync_directory(target.parent)

    def create(self, name: str, content: bytes, deadline: Deadline) -> bool:
        """Create the file as a hard link to a temporary one: of several programs only one
        succeeds."""
        target = self._root / name
        part = part_of(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(part, content)
            os.link(part, target)
        except FileExistsError:
            return False
        except OSError as error:
            raise _trouble(target, error) from error
        finally:
            part.unlink(missing_ok=True)
        sync_directory(target.parent)
        return True

    def read(self, name: str, deadline: Deadline) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _trouble(self._root / name, error) from error

    def fetch(self, name: str, target: Path, deadline: Deadline) -> None:
        source = self._root / name
        part = part_of(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, part)
            part.replace(target)
        except OSError as error:
            raise _trouble(source, error) from error
        finally:
            part.unlink(missing_ok=True)

    def names(self, under: str, deadline: Deadline) -> tuple[str, ...]:
        folder = self._root / under
        if not folder.is_dir():
            return ()
        found = (path for path in folder.rglob("*") if path.is_file())
        return tuple(
            sorted(
                path.relative_to(self._root).as_posix()
                for path in found
                if not (path.name.startswith(".") and path.name.endswith(".part"))
            )
        )

    def delete(self, names: Sequence[str], deadline: Deadline) -> None:
        for name in names:
            path = self._root / name
            try:
                path.unlink(missing_ok=True)
                _remove_empty(path.parent, self._root)
            except OSError as error:
                raise _trouble(path, error) from error

    def link(self, name: str) -> str:
        return str(self._root / name)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _missing_folders(path: Path) -> tuple[Path, ...]:
    """The folders that do not exist yet, the innermost first."""
    return tuple(each for each in (path, *path.parents) if not each.exists())


def _remove_quietly(probe: Path, made: Sequence[Path]) -> None:
    """Leave no trace of a check: neither its file nor the folders it made."""
    try:
        probe.unlink(missing_ok=True)
        for folder in made:
            folder.rmdir()
    except OSError:
        pass  # the check has its answer; an empty folder left behind does no harm


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _trouble(path: Path, error: OSError) -> TransientError | PermanentError:
    if error.errno in _PASSING:
        return TransientError(msg("{path}: {strerror}", path=path, strerror=error.strerror))
    return PermanentError(_problem(path, error))


def _problem(path: Path, error: OSError) -> Problem:
    reason = error.strerror or type(error).__name__
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            fix = msg("free space there, or name another folder")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            fix = msg("mount it writable and check its owner, or name another folder")
        case errno.ENOTDIR | errno.EEXIST:
            fix = msg("a file is in the way of a folder; name another folder")
        case _:
            fix = msg("check that the disk is mounted")
    return Problem(
        text=msg("cannot write to the folder {path}: {reason}", path=path, reason=reason), fix=fix
    )
