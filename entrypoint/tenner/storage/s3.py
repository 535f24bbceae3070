"""Delivery to S3 and the servers that speak it (MinIO, R2, B2, Wasabi, Ceph, ...).

What was stored is verified by size and by the hash that the server itself names (`s3_proof`): the
SHA-256 where it stores that, else the ETag. Where it names neither (KMS encryption at a server that
stores no SHA-256) the object is read back and its SHA-256 compared.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

from tenner.core.checksums import HashedFile, changed_since
from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.parallel import first_error, in_parallel
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.core.secrets import Secrets
from tenner.storage.destination import Destination
from tenner.storage.endpoint import find_endpoint
from tenner.storage.permissions import Permissions
from tenner.storage.s3_client import (
    NUM_CONNECTIONS,
    Answer,
    S3Client,
    call,
    open_client,
    status_and_code,
)
from tenner.storage.s3_permissions import Retention, growth_of, limits_of
from tenner.storage.s3_proof import is_proven
from tenner.storage.s3_upload import S3Uploads
from tenner.storage.sending import OWN_FOLDER
from tenner.storage.store import OnBytes

T = TypeVar("T")
_BLOCK_BYTES = 1 << 20
CHECK_NAME = ".tenner-check"
"""A name that is written only to learn what the keys may do."""
_FORBIDDEN = {"403", "AccessDenied", "Forbidden", "AllAccessDisabled", "UnauthorizedAccess"}
_CHECK_CONTENT = b"Written by tenner to find out what its keys may do here.\n"
_ABSENT = {"404", "NoSuchKey", "NotFound"}


def open_s3(destination: Destination, *, secrets: Secrets, env: Mapping[str, str]) -> "S3Store":
    """Raises PermanentError where boto3 is missing or the settings cannot work."""
    try:
        endpoint = find_endpoint(
            destination.root, requested=destination.endpoint_url, region=destination.region, env=env
        )
    except ValueError as error:
        problem = Problem(
            text=msg("{destination}: {error}", destination=destination, error=error),
            fix=msg(
                "write it as https://host or https://host:port (AWS_ENDPOINT_URL or endpoint_url=)"
            ),
        )
        raise PermanentError(problem) from error

    def open_one(signs_payload: bool) -> S3Client:
        return open_client(
            destination, endpoint, secrets=secrets, env=env, signs_payload=signs_payload
        )

    return S3Store(destination, S3Uploads(destination, open_one))


@dataclass(frozen=True, kw_only=True)
class _ReadBack:
    """An object's content, and what the bucket retains of it once it is removed."""

    content: bytes
    retention: Retention


class S3Store:
    """A bucket, or a prefix in one."""

    whole_sets = False

    def __init__(self, destination: Destination, uploads: S3Uploads) -> None:
        self.destination = destination
        self._uploads = uploads
        self._permissions: Permissions | None = None

    @property
    def _client(self) -> S3Client:
        return self._uploads.client

    def probe(self, deadline: Deadline) -> tuple[Problem, ...]:
        """Write, read back, list and delete a small object, and note which of these the keys may
        do."""
        deletes = self._may(deadline, "delete_object", **self._key(_check_name()))
        # Without the right to delete it is one name, so that not each start leaves a file.
        name = _check_name() if deletes else CHECK_NAME
        content = token_hex(16).encode() if deletes else _CHECK_CONTENT
        _persist(deadline, self._uploads.put_object, name, content, deadline)
        back = self._read_if_allowed(name, deadline)
        lists = self._may_list(deadline)
        self._permissions = Permissions(reads=back is not None, lists=lists, deletes=deletes)
        if deletes:
            self.delete([name], deadline)
        if back and back.content != content:
            text = msg(
                "{destination} returned other bytes than were written",
                destination=self.destination,
            )
            return (
                Problem(
                    text=text,
                    fix=msg("this server does not store files unchanged: use another destination"),
                ),
            )
        versions = growth_of(self.destination, back.retention) if back and back.retention else ()
        return (*limits_of(self.destination, self._permissions), *versions)

    def permissions(self, deadline: Deadline) -> Permissions:
        if self._permissions is None:
            deletes = self._may(deadline, "delete_object", **self._key(_check_name()))
            lists = self._may_list(deadline)
            reads = self._may_read(deadline, lists=lists)
            self._permissions = Permissions(reads=reads, lists=lists, deletes=deletes)
        return self._permissions

    def _may_read(self, deadline: Deadline, *, lists: bool) -> bool:
        """Whether the keys may read. Keys that may not list get 403 for an object that is not there
        too, so then one is written and read."""
        if self._may(deadline, "get_object", **self._key(_check_name())):
            return True
        if lists:
            return False  # else the same is answered for what is not there
        _persist(deadline, self._uploads.put_object, CHECK_NAME, _CHECK_CONTENT, deadline)
        return self._read_if_allowed(CHECK_NAME, deadline) is not None

    def _may_list(self, deadline: Deadline) -> bool:
        where = {"Bucket": self.destination.root, "MaxKeys": 1}
        start = self.destination.name_in_root(f"{OWN_FOLDER}/")
        return self._may(deadline, "list_objects_v2", Prefix=start, **where)

    def _may(self, deadline: Deadline, action: str, **what: Any) -> bool:
        """Whether a call is allowed, for what is not there.

        Raises TransientError or PermanentError.
        """
        try:
            request = getattr(self._client, action)
            _persist(deadline, call, self.destination, deadline, request, **what)
        except PermanentError as refused:
            if refused.code not in _FORBIDDEN | _ABSENT:
                raise
            return refused.code in _ABSENT
        return True

    def _read_if_allowed(self, name: str, deadline: Deadline) -> "_ReadBack | None":
        """An object's content and its bucket's retention; None where the keys may not read."""

        def read() -> tuple[Any, bytes]:
            get, key = self._client.get_object, self._key(name)
            answer = call(self.destination, deadline, get, **key)
            return answer, call(self.destination, deadline, answer["Body"].read)

        try:
            answer, content = _persist(deadline, read)
        except PermanentError as refused:
            if refused.code not in _FORBIDDEN:
                raise
            return None
        is_versioned = answer.get("VersionId", "null") != "null"
        retention: Retention = "locked" if answer.get("ObjectLockMode") else "versions"
        return _ReadBack(content=content, retention=retention if is_versioned else "")

    def missing(self, files: Sequence[HashedFile], deadline: Deadline) -> tuple[HashedFile, ...]:
        checks = [partial(retrying, deadline, partial(self._holds, f, deadline)) for f in files]
        found = in_parallel(
            checks, num_workers=NUM_CONNECTIONS, deadline=deadline, name="tenner-s3-look"
        )
        if error := first_error(found):
            raise error
        missing = tuple(file for file, held in zip(files, found, strict=True) if not held)
        if any(self._uploads.sent(file) for file in missing):
            self._uploads.sign_instead()  # what was just sent is not there, or not proven
        return missing

    def _holds(self, file: HashedFile, deadline: Deadline) -> bool:
        """Whether the object is the file, by size and by the server's hash or, without one, its
        bytes. Where the keys may not read, the answer to the upload is the proof."""
        if self._permissions and not self._permissions.reads:
            return self._was_taken(file)
        try:
            head = self._uploads.with_sha256(
                partial(self._head, file.name, deadline), {"ChecksumMode": "ENABLED"}
            )
        except PermanentError as refused:
            if refused.code in _ABSENT:
                return False
            if refused.code not in _FORBIDDEN:
                raise
            # Without the right to list, AWS answers so for what is not there.
            return self._was_taken(file) if not self.permissions(deadline).reads else False
        if head["ContentLength"] != file.size:
            if not file.is_as_hashed() and (changed := changed_since(file)):
                raise PermanentError(changed)
            return False
        if is_proven(file, head):
            return True
        return self._read_hash(file.name, deadline) == (file.size, file.sha256)

    def _was_taken(self, file: HashedFile) -> bool:
        """Whether the answer to its upload proves a file that cannot be read back: by the hash in
        it, or by the signature that the server checked."""
        sent = self._uploads.sent(file)
        if sent is None or not file.is_as_hashed():
            return False
        return sent.is_signed or is_proven(file, sent.answer)

    def _head(self, name: str, deadline: Deadline, mode: Mapping[str, str]) -> Answer:
        """The server's answer to HEAD. A refused HEAD has no body, so the reason is read from a GET
        of one byte."""
        key = self._key(name)
        try:
            return call(self.destination, deadline, self._client.head_object, **key, **mode)
        except PermanentError as refused:
            may_be_absent = self._permissions and not self._permissions.lists
            if refused.code in _ABSENT or may_be_absent:
                raise
            first = {"Range": "bytes=0-0"}
            call(self.destination, deadline, self._client.get_object, **key, **first)
            raise

    def put(
        self,
        files: Sequence[HashedFile],
        deadline: Deadline,
        on_bytes: OnBytes,
        gone: Sequence[str] = (),
    ) -> None:
        self._uploads.send(files, deadline, on_bytes)
        self.delete(gone, deadline)

    def create(self, name: str, content: bytes, deadline: Deadline) -> bool:
        try:
            self._uploads.put_object(name, content, deadline, IfNoneMatch="*")
        except TransientError as trouble:
            if status_and_code(trouble)[1] == "PreconditionFailed":
                return False
            raise
        return True

    def read(self, name: str, deadline: Deadline) -> bytes | None:
        try:
            answer = call(self.destination, deadline, self._client.get_object, **self._key(name))
        except PermanentError as refused:
            if refused.code in _ABSENT:
                return None
            if refused.code in _FORBIDDEN and self.permissions(deadline).reads:
                return None  # not there: servers answer 403 for 404 where the keys may not list
            raise
        return call(self.destination, deadline, answer["Body"].read)

    def beginning(self, name: str, num_bytes: int, deadline: Deadline) -> bytes:
        """The first bytes of an object. Raises PermanentError where there is none."""
        part = {**self._key(name), "Range": f"bytes=0-{num_bytes - 1}"}
        answer = call(self.destination, deadline, self._client.get_object, **part)
        return call(self.destination, deadline, answer["Body"].read)

    def version(self, name: str, deadline: Deadline) -> tuple[int, str]:
        """Size in bytes and ETag of an object. Raises PermanentError where there is none."""
        head = self._head(name, deadline, {})
        return int(head["ContentLength"]), str(head.get("ETag", ""))

    def fetch(
        self, name: str, target: Path, deadline: Deadline, on_bytes: OnBytes | None = None
    ) -> None:
        from tenner.storage.s3_download import download_object

        key = self._key(name)
        download_object(self._client, self.destination, key, target, deadline, on_bytes)

    def names(self, under: str, deadline: Deadline) -> tuple[str, ...]:
        root = self.destination.name_in_root("")
        start = {"Bucket": self.destination.root, "Prefix": root + (f"{under}/" if under else "")}
        found: list[str] = []
        more: dict[str, str] = {}
        while True:
            request = partial(call, self.destination, deadline, self._client.list_objects_v2)
            page = retrying(deadline, partial(request, **start, **more))
            found += [str(each["Key"]).removeprefix(root) for each in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return tuple(sorted(found))
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, names: Sequence[str], deadline: Deadline) -> None:
        for name in names:  # one by one: the call for many needs a checksum that some refuse
            delete = partial(call, self.destination, deadline, self._client.delete_object)
            retrying(deadline, partial(delete, **self._key(name)))

    def link(self, name: str) -> str:
        if not self.destination.link_seconds:
            return ""
        return self._client.generate_presigned_url(
            "get_object", Params=self._key(name), ExpiresIn=self.destination.link_seconds
        )

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self.destination.root, "Key": self.destination.name_in_root(name)}

    def _read_hash(self, name: str, deadline: Deadline) -> tuple[int, str]:
        """Size and SHA-256 of the object's bytes, read back from the server."""
        body = call(self.destination, deadline, self._client.get_object, **self._key(name))["Body"]
        digest, size = hashlib.sha256(), 0
        while block := call(self.destination, deadline, body.read, _BLOCK_BYTES):
            deadline.check()
            digest.update(block)
            size += len(block)
        return size, digest.hexdigest()


def _check_name() -> str:
    return f"{CHECK_NAME}-{token_hex(4)}"


def _persist(deadline: Deadline, request: Callable[..., T], *what: Any, **more: Any) -> T:
    """Call `request` until it is answered. In a series of requests each is retried by itself;
    otherwise one transient error would repeat all of them. A refusal is an answer, and raised at
    once."""
    return retrying(deadline, partial(request, *what, **more), max_refusals=1)
