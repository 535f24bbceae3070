"""Delivery to Google Cloud Storage and Azure Blob Storage, through fsspec's file systems.

What was stored is verified by size and by the MD5 that Google's server itself has taken; where the
server names none (Azure stores the hash that its client sent), the object is read back and its
SHA-256 compared. Objects appear whole: both servers show an upload once it is complete.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tenner.core.checksums import HashedFile, changed_since
from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.core.secrets import Secrets
from tenner.storage.chunks import digest_of, download_in_chunks, fetch_in_chunks, probe_store
from tenner.storage.destination import Destination
from tenner.storage.permissions import ALL_PERMISSIONS, Permissions
from tenner.storage.store import OnBytes

T = TypeVar("T")
_FORBIDDEN, _ABSENT = (401, 403), (404,)
_PACKAGES = {"gs": ("gcsfs", "gcs"), "azure": ("adlfs", "azure")}
"""The module of each kind, and tenner's extra that brings it."""
_FIXES = {
    "gs": msg(
        "give the service account in GOOGLE_APPLICATION_CREDENTIALS the role Storage Object Admin"
        " on the bucket"
    ),
    "azure": msg(
        "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or"
        " AZURE_STORAGE_CONNECTION_STRING), or the role Storage Blob Data Contributor"
    ),
}


class FileSystem(Protocol):
    """What is used of an fsspec file system."""

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> Any: ...
    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> Any: ...
    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> Any: ...
    def info(self, path: str, **kwargs: Any) -> Mapping[str, Any]: ...
    def find(self, path: str, **kwargs: Any) -> Any: ...
    def rm_file(self, path: str) -> Any: ...
    def invalidate_cache(self) -> Any: ...


def open_cloud(
    destination: Destination, *, secrets: Secrets, env: Mapping[str, str]
) -> "CloudStore":
    """Raises PermanentError where the file system is not installed or its settings are wrong."""
    module, extra = _PACKAGES[destination.kind]
    try:
        if destination.kind == "gs":
            # The plain class: the package's default one first requests each bucket's kind by gRPC.
            from gcsfs.core import GCSFileSystem  # pyright: ignore[reportMissingTypeStubs]

            kind, options = GCSFileSystem, _google_options(env)
        else:
            from adlfs import AzureBlobFileSystem  # pyright: ignore[reportMissingTypeStubs]

            kind, options = AzureBlobFileSystem, _azure_options(secrets, env)
    except ImportError as error:
        text = msg("{destination} needs {module}", destination=destination, module=module)
        fix = msg("pip install 'tenner[{extra}]'", extra=extra)
        raise PermanentError(Problem(text=text, fix=fix)) from error
    fs = _call_library(
        destination, lambda: kind(**options, use_listings_cache=False, skip_instance_cache=True)
    )
    return CloudStore(destination, fs)


def _google_options(env: Mapping[str, str]) -> dict[str, Any]:
    """gcsfs finds the credentials itself (GOOGLE_APPLICATION_CREDENTIALS, the machine's own)."""
    host = env.get("STORAGE_EMULATOR_HOST")
    found: dict[str, Any] = {"project": env.get("GOOGLE_CLOUD_PROJECT", "")}
    if host:
        found |= {"endpoint_url": host if "://" in host else f"http://{host}", "token": "anon"}
    elif key := env.get("GOOGLE_APPLICATION_CREDENTIALS"):
        found["token"] = key
    return found


def _azure_options(secrets: Secrets, env: Mapping[str, str]) -> dict[str, Any]:
    names = {
        "account_name": "AZURE_STORAGE_ACCOUNT_NAME",
        "account_key": "AZURE_STORAGE_ACCOUNT_KEY",
        "connection_string": "AZURE_STORAGE_CONNECTION_STRING",
        "sas_token": "AZURE_STORAGE_SAS_TOKEN",
        "client_id": "AZURE_STORAGE_CLIENT_ID",
        "client_secret": "AZURE_STORAGE_CLIENT_SECRET",
        "tenant_id": "AZURE_STORAGE_TENANT_ID",
    }
    found = {key: secrets.get(name) or env.get(name) for key, name in names.items()}
    return {key: value for key, value in found.items() if value}


class CloudStore:
    """A bucket or a container, or a prefix in one."""

    whole_sets = False

    def __init__(self, destination: Destination, fs: FileSystem) -> None:
        self.destination = destination
        self._fs = fs

    def probe(self, deadline: Deadline) -> tuple[Problem, ...]:
        return probe_store(self, deadline, self.write)

    def permissions(self, deadline: Deadline) -> Permissions:
        return ALL_PERMISSIONS  # `probe` has tried them all

    def write(self, name: str, content: bytes) -> None:
        """Write a small file. Raises TransientError or PermanentError."""
        self._call(lambda: self._fs.pipe_file(self._path(name), content))

    def missing(self, files: Sequence[HashedFile], deadline: Deadline) -> tuple[HashedFile, ...]:
        found: list[HashedFile] = []
        for file in files:
            deadline.check()
            if not retrying(deadline, lambda file=file: self._holds(file, deadline)):
                found.append(file)
        return tuple(found)

    def _holds(self, file: HashedFile, deadline: Deadline) -> bool:
        info = self._info(file.name)
        if info is None or int(info["size"]) != file.size:
            if not file.is_as_hashed() and (changed := changed_since(file)):
                raise PermanentError(changed)
            return False
        if md5 := str(info.get("md5Hash", "")):
            return base64.b64decode(md5).hex() == digest_of(file, "md5")
        digest = hashlib.sha256()
        fetch_in_chunks(self, file.name, file.size, deadline, digest.update)
        return digest.hexdigest() == file.sha256

    def put(
        self,
        files: Sequence[HashedFile],
        deadline: Deadline,
        on_bytes: OnBytes,
        gone: Sequence[str] = (),
    ) -> None:
        for file in files:
            deadline.check()
            path = self._path(file.name)
            self._call(lambda file=file, path=path: self._fs.put_file(str(file.path), path))
            on_bytes(file.size)
        self.delete(gone, deadline)

    def create(self, name: str, content: bytes, deadline: Deadline) -> bool:
        try:
            self._call(lambda: self._fs.pipe_file(self._path(name), content, mode="create"))
        except PermanentError as refused:
            if refused.code == "exists":
                return False
            raise
        return True

    def read(self, name: str, deadline: Deadline) -> bytes | None:
        try:
            return self._call(lambda: self._fs.cat_file(self._path(name)))
        except PermanentError as refused:
            if refused.code == "absent":
                return None
            raise

    def read_part(self, name: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of a file."""
        return self._call(lambda: self._fs.cat_file(self._path(name), start, end))

    def beginning(self, name: str, num_bytes: int, deadline: Deadline) -> bytes:
        return retrying(deadline, lambda: self.read_part(name, 0, num_bytes))

    def version(self, name: str, deadline: Deadline) -> tuple[int, str]:
        """Size in bytes, and what changes with the content. Raises PermanentError where there is
        no such file."""
        info = retrying(deadline, lambda: self._info(name))
        if info is None:
            text = msg(
                "{destination}: {name} is not there", destination=self.destination, name=name
            )
            raise PermanentError(
                Problem(text=text, fix=msg("check the address, letter by letter")), code="absent"
            )
        keys = ("generation", "etag", "md5Hash", "last_modified", "created")
        return int(info["size"]), str(next((info[key] for key in keys if info.get(key)), ""))

    def fetch(
        self, name: str, target: Path, deadline: Deadline, on_bytes: OnBytes | None = None
    ) -> None:
        size, version = self.version(name, deadline)
        download_in_chunks(self, name, target, size, version, deadline, on_bytes)

    def names(self, under: str, deadline: Deadline) -> tuple[str, ...]:
        folder = self._path(under) if under else self._path("").rstrip("/")
        try:
            found = retrying(deadline, lambda: self._call(lambda: self._fs.find(folder)))
        except PermanentError as refused:
            if refused.code == "absent":
                return ()
            raise
        root = self._path("").strip("/") + "/"
        names = (str(each).lstrip("/").removeprefix(root) for each in found)
        return tuple(sorted(name for name in names if name and not name.endswith("/")))

    def delete(self, names: Sequence[str], deadline: Deadline) -> None:
        for name in names:
            try:
                retrying(
                    deadline,
                    lambda name=name: self._call(lambda: self._fs.rm_file(self._path(name))),
                )
            except PermanentError as refused:
                if refused.code != "absent":
                    raise

    def link(self, name: str) -> str:
        return ""

    def _info(self, name: str) -> Mapping[str, Any] | None:
        try:
            found = self._call(lambda: self._fs.info(self._path(name)))
        except PermanentError as refused:
            if refused.code == "absent":
                return None
            raise
        return found if found.get("type") == "file" else None

    def _path(self, name: str) -> str:
        return f"{self.destination.root}/{self.destination.name_in_root(name)}"

    def _call(self, action: Callable[[], T]) -> T:
        self._fs.invalidate_cache()
        return _call_library(self.destination, action)


def _call_library(destination: Destination, action: Callable[[], T]) -> T:
    """The result of `action`, with the library's errors as TransientError or PermanentError, by the
    server's status where they have one."""
    try:
        return action()
    except Exception as error:
        status = _status(error)
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        text = msg("{destination}: {reason}", destination=destination, reason=reason)
        if isinstance(error, FileExistsError) or status in (409, 412):
            raise PermanentError(Problem(text=text), code="exists") from error
        if isinstance(error, FileNotFoundError) or status in _ABSENT:
            fix = msg("check the address, letter by letter")
            raise PermanentError(Problem(text=text, fix=fix), code="absent") from error
        if (
            status in _FORBIDDEN
            or isinstance(error, PermissionError | ValueError)
            or _is_login(error)
        ):
            problem = Problem(text=text, fix=_FIXES[destination.kind])
            raise PermanentError(problem, code="forbidden") from error
        raise TransientError(text) from error


def _status(error: BaseException) -> int | None:
    for name in ("code", "status_code", "status"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
        if isinstance(value, str) and value.isdecimal():
            return int(value)
    return None


def _is_login(error: BaseException) -> bool:
    """Whether credentials are missing or were refused before any request."""
    names = {each.__name__ for each in type(error).__mro__}
    return bool(
        names & {"GoogleAuthError", "ClientAuthenticationError", "CredentialUnavailableError"}
    )
