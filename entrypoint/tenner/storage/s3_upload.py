"""Uploads to S3: small files whole, larger ones in parts by s3transfer, unfinished ones part by
part.

Everything is sent with its SHA-256 (`ChecksumAlgorithm`), which the server checks on arrival and
stores. A server that refuses these headers, or stores them unchecked, gets the rest with a signed
SHA-256 of each request, which every server has to check.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import md5, sha256
from threading import Lock, Thread
from typing import Any, TypeVar, cast

from tenner.core.checksums import HashedFile, changed_since
from tenner.core.messages import msg
from tenner.core.parallel import DaemonExecutor, first_error, in_parallel
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.storage.destination import Destination
from tenner.storage.s3_client import NUM_CONNECTIONS, Answer, S3Client, call, status_and_code
from tenner.storage.s3_proof import PART_BYTES, in_base64, part_bytes_for
from tenner.storage.store import OnBytes

T = TypeVar("T")
_SHA256 = {"ChecksumAlgorithm": "SHA256"}
_POLL_SECONDS = 0.1
_ARRIVED_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A file that was sent, and the server's answer to the last request for it. `is_signed` where
    the SHA-256 of all of it was signed."""

    file: HashedFile
    answer: Answer
    is_signed: bool


class S3Uploads:
    """Uploads to one destination. Safe to call from several threads.

    `open_client(signs)` opens a client that signs each request's SHA-256, or one that does not.
    """

    def __init__(self, destination: Destination, open_client: Callable[[bool], S3Client]) -> None:
        self.client = open_client(False)
        self.takes_sha256 = True
        """Whether the server takes and checks the headers; False once it was seen not to."""
        self._destination = destination
        self._open_client = open_client
        self._sent: dict[str, Sent] = {}
        self._unfinished: dict[str, str] = {}
        self._given_up: set[str] = set()

    def sent(self, file: HashedFile) -> "Sent | None":
        """The upload of exactly this file, where it was sent; None for another version of it."""
        found = self._sent.get(file.name)
        return found if found and found.file == file else None

    def sign_instead(self) -> None:
        """Send with signatures instead of checksums from now on."""
        if self.takes_sha256:
            self.client = self._open_client(True)
            self.takes_sha256 = False

    def with_sha256(self, action: Callable[[dict[str, str]], Answer], more: dict[str, str]) -> Any:
        """`action(more)`, or `action({})` where the server refuses the headers of checksums.

        Raises TransientError or PermanentError.
        """
        if self.takes_sha256:
            try:
                return action(more)
            except (PermanentError, TransientError) as error:
                status, code = status_and_code(error)
                if status not in {400, 501} or code in _ARRIVED_DAMAGED:
                    raise
                # Where the headers are not the reason, the request without them is refused too.
                self.sign_instead()
        return action({})

    def put_object(self, name: str, content: bytes, deadline: Deadline, **more: str) -> Answer:
        """Send a small object. Raises TransientError or PermanentError."""

        def put(checksum: dict[str, str]) -> Answer:
            client, key = self.client, self._key(name)
            return self._call(deadline, client.put_object, Body=content, **key, **more, **checksum)

        return self.with_sha256(put, _SHA256)

    def send(self, files: Sequence[HashedFile], deadline: Deadline, on_bytes: OnBytes) -> None:
        """Send all files, several side by side; each is tried again by itself.

        They may still be hashed meanwhile: that is not waited for. Raises TransientError or
        PermanentError.
        """
        for file in files:
            self._sent.pop(file.name, None)
        with _Transfers() as transfers:
            send = partial(self._send_one, transfers, deadline, on_bytes)
            jobs = [partial(retrying, deadline, partial(send, file)) for file in files]
            _all_done(jobs, deadline)

    def _send_one(
        self, transfers: "_Transfers", deadline: Deadline, on_bytes: OnBytes, file: HashedFile
    ) -> None:
        is_signed = not self.takes_sha256
        if file.size <= PART_BYTES:
            answer = self.put_object(file.name, file.path.read_bytes(), deadline)
            on_bytes(file.size)
        elif upload_id := self._find_unfinished(file, deadline):
            answer, is_signed = self._resume(file, upload_id, deadline, on_bytes), False
        else:
            answer = self.with_sha256(
                partial(self._transfer, transfers, file, deadline, on_bytes), _SHA256
            )
        self._sent[file.name] = Sent(file=file, answer=answer, is_signed=is_signed)

    def _transfer(
        self,
        transfers: "_Transfers",
        file: HashedFile,
        deadline: Deadline,
        on_bytes: OnBytes,
        more: dict[str, str],
    ) -> Answer:
        """Have s3transfer send a file in parts; the server's answer to the last request."""
        key, watch = self._key(file.name), _Watch(deadline, on_bytes)
        self._give_up(file.name, deadline)  # of an upload that was refused with checksums
        client, manager = transfers.by(self.client)
        where = str(file.path), key["Bucket"], key["Key"]
        transfer = manager.upload(*where, extra_args=dict(more), subscribers=[watch])
        # A part of a file that became shorter is less than was announced, and would hang.
        is_whole = True
        while is_whole and not transfer.done() and not deadline.passed():
            deadline.sleep(_POLL_SECONDS)
            is_whole = file.path.stat().st_size >= file.size
        if not is_whole and (changed := changed_since(file)):
            raise PermanentError(changed)
        try:
            self._call(deadline, transfer.result)
        except CancelledError:
            deadline.check()
            raise
        finally:
            if upload_id := client.unfinished.pop(key["Key"], ""):
                self._unfinished[file.name] = upload_id
        return client.answers.pop(key["Key"], {})  # none where it became small

    def _find_unfinished(self, file: HashedFile, deadline: Deadline) -> str:
        """An upload of this file that can be resumed: of this process, or of an earlier one.

        Older ones of the same key are given up, since their parts cost storage for ever.
        """
        if file.name in self._unfinished:
            return self._unfinished[file.name]
        key = self._key(file.name)
        where = {"Bucket": key["Bucket"], "Prefix": key["Key"]}
        try:
            answer = self._call(deadline, self.client.list_multipart_uploads, **where)
        except (PermanentError, TransientError):
            return ""  # no right to list, or a server without the call
        found = [
            each
            for each in answer.get("Uploads", ())
            if each["Key"] == key["Key"] and each["UploadId"] not in self._given_up
        ]
        found.sort(key=lambda each: str(each.get("Initiated", "")))
        for each in found:
            self._give_up(file.name, deadline)
            self._unfinished[file.name] = str(each["UploadId"])
        return self._unfinished.get(file.name, "")

    def _resume(
        self, file: HashedFile, upload_id: str, deadline: Deadline, on_bytes: OnBytes
    ) -> Answer:
        """Send the parts that are missing in an upload, as s3transfer cannot resume one. Raises
        TransientError, and forgets the upload, where the server does not take it.
        """
        upload = _Upload(file=file, which={**self._key(file.name), "UploadId": upload_id})
        try:
            there = self._parts(upload, deadline)
            send = partial(self._send_part, upload, there, deadline, on_bytes)
            numbers = range(1, -(-file.size // upload.part_bytes) + 1)
            jobs = [partial(retrying, deadline, partial(send, number)) for number in numbers]
            whole = {"MultipartUpload": {"Parts": _all_done(jobs, deadline)}}
            answer = self._call_upload(
                upload, deadline, self.client.complete_multipart_upload, **whole
            )
        except (PermanentError, _UploadLost) as error:
            self._give_up(file.name, deadline)
            text = msg("an unfinished upload of {name} could not be resumed", name=file.name)
            raise TransientError(text) from error
        self._unfinished.pop(file.name, None)
        return answer

    def _parts(self, upload: "_Upload", deadline: Deadline) -> dict[int, Answer]:
        """The parts that are there, by their numbers."""
        found: dict[int, Answer] = {}
        more: dict[str, int] = {}
        while True:
            page = self._call_upload(upload, deadline, self.client.list_parts, **more)
            found |= {int(part["PartNumber"]): part for part in page.get("Parts", ())}
            if not page.get("IsTruncated"):
                return found
            more = {"PartNumberMarker": int(page["NextPartNumberMarker"])}

    def _send_part(
        self,
        upload: "_Upload",
        there: dict[int, Answer],
        deadline: Deadline,
        on_bytes: OnBytes,
        number: int,
    ) -> dict[str, Any]:
        """Send a part unless it is there; returns it as the request that completes the upload lists
        it."""
        with upload.file.path.open("rb", buffering=0) as source:
            source.seek((number - 1) * upload.part_bytes)
            content = source.read(upload.part_bytes)
        checksum = {"ChecksumSHA256": in_base64(sha256(content).digest())}
        proof = checksum if self.takes_sha256 else {}
        part = there.get(number)
        if part is None or not _is_part(part, content, checksum):
            send = partial(self.client.upload_part, Body=content, PartNumber=number)
            part = self._call_upload(upload, deadline, send, **proof)
        on_bytes(len(content))
        return {"PartNumber": number, "ETag": part["ETag"], **proof}

    def _call_upload(
        self, upload: "_Upload", deadline: Deadline, action: Any, **more: Any
    ) -> Answer:
        """A call for an unfinished upload. Raises _UploadLost where the server has forgotten it, or
        has no such call."""
        try:
            return self._call(deadline, action, **upload.which, **more)
        except TransientError as error:
            status, code = status_and_code(error)
            if status == 501 or code == "NoSuchUpload":
                raise _UploadLost from error
            raise

    def _give_up(self, name: str, deadline: Deadline) -> None:
        """Abort an unfinished upload; errors of the server are ignored."""
        if upload_id := self._unfinished.pop(name, ""):
            self._given_up.add(upload_id)
            with suppress(PermanentError, TransientError):
                abort = self.client.abort_multipart_upload
                self._call(deadline, abort, **self._key(name), UploadId=upload_id)

    def _call(self, deadline: Deadline, action: Callable[..., Any], **more: Any) -> Any:
        return call(self._destination, deadline, action, **more)

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self._destination.root, "Key": self._destination.name_in_root(name)}


class _UploadLost(Exception):
    """An unfinished upload cannot be resumed at the server: only a new one helps."""


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """An unfinished upload: its file, and bucket, key and id as calls take them."""

    file: HashedFile
    which: dict[str, str]

    @property
    def part_bytes(self) -> int:
        return part_bytes_for(self.file.size)


class _PartRecorder:
    """The client as s3transfer gets it. An upload that fails is not aborted, as s3transfer would
    do, so that its parts can be resumed; and the answer to a completed one, which s3transfer drops,
    is stored. Both by key."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self.unfinished: dict[str, str] = {}
        self.answers: dict[str, Answer] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def abort_multipart_upload(self, **which: Any) -> None:
        self.unfinished[str(which["Key"])] = str(which["UploadId"])

    def complete_multipart_upload(self, **which: Any) -> None:
        answer = self._client.complete_multipart_upload(**which)
        self.answers[str(which["Key"])] = answer


class _Transfers:
    """s3transfer's managers while files are sent: one, and a second where signing begins
    meanwhile."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_client: dict[int, tuple[_PartRecorder, Any]] = {}

    def __enter__(self) -> "_Transfers":
        return self

    def __exit__(self, *_: object) -> None:
        for _recorder, manager in self._by_client.values():
            # In a thread of its own: it waits for requests that are under way.
            Thread(target=manager.shutdown, name="tenner-s3-end", daemon=True).start()

    def by(self, client: S3Client) -> tuple[_PartRecorder, Any]:
        """The manager that sends by `client`, and the client as it has it."""
        from s3transfer.manager import (  # pyright: ignore[reportMissingTypeStubs]
            TransferConfig,
            TransferManager,
        )

        config = TransferConfig(
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_request_concurrency=NUM_CONNECTIONS,
        )
        with self._lock:
            if id(client) not in self._by_client:
                recorder = _PartRecorder(client)
                manager = cast(Any, TransferManager)(recorder, config, executor_cls=DaemonExecutor)
                self._by_client[id(client)] = recorder, manager
            return self._by_client[id(client)]


class _Watch:
    """s3transfer's subscriber: progress of one file, which ends with the deadline."""

    def __init__(self, deadline: Deadline, on_bytes: OnBytes) -> None:
        self._deadline = deadline
        self._on_bytes = on_bytes

    def on_progress(self, future: Any, bytes_transferred: int, **_: Any) -> None:
        if self._deadline.passed():
            future.cancel()
        self._on_bytes(bytes_transferred)  # negative where a part is sent again


def _is_part(part: Answer, content: bytes, checksum: dict[str, str]) -> bool:
    if part.get("ChecksumSHA256"):
        return part["ChecksumSHA256"] == checksum["ChecksumSHA256"]
    etag = str(part.get("ETag", "")).strip('"').lower()
    return etag == md5(content, usedforsecurity=False).hexdigest()


def _all_done(jobs: Sequence[Callable[[], T]], deadline: Deadline) -> list[T]:
    """The results of all jobs. Raises the most severe of their errors."""
    ended = in_parallel(jobs, num_workers=NUM_CONNECTIONS, deadline=deadline, name="tenner-s3")
    if error := first_error(ended):
        raise error
    return cast("list[T]", ended)
