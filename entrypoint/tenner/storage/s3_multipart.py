"""A file that goes up to S3 in parts, and goes on where an earlier upload of it ended."""

from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

from tenner.core.checksums import HashedFile
from tenner.core.retry import PermanentError, TransientError
from tenner.storage.s3_body import Body
from tenner.storage.s3_client import code_of
from tenner.storage.s3_proof import Sent, etag_in, in_base64
from tenner.storage.s3_wire import Reach, Wire
from tenner.storage.store import OnBytes

SMALLEST_PART_BYTES = 8 << 20
_MOST_PARTS = 10_000  # S3's limit
_MIB = 1 << 20


def part_bytes_for(size: int) -> int:
    """The part size for a file of `size` bytes: 8 MiB, more where 10,000 parts do not reach.

    All parts but the last are of one size, as R2 wants it.
    """
    needed = -(-size // _MOST_PARTS)
    return max(SMALLEST_PART_BYTES, -(-needed // _MIB) * _MIB)


class CannotGoOn(Exception):
    """The server has forgotten an upload, or takes nothing more in it: a new one may help."""

    def __init__(self, upload: "Multipart") -> None:
        super().__init__(upload.file.name)
        self.upload = upload


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part that lies at the server, as it names it: ETag, and SHA-256 in base64 or empty."""

    etag: str
    checksum: str = ""


@dataclass(kw_only=True)
class Multipart:
    """An upload in parts. `key` are its bucket and key, `spare` such that nothing lies under."""

    wire: Wire
    reach: Reach
    file: HashedFile
    key: dict[str, str]
    spare: dict[str, str]
    sent: Sent
    _upload_id: str = ""
    _is_new: bool = True
    _there: dict[int, _Part] = field(default_factory=dict[int, _Part])
    _lock: Lock = field(default_factory=Lock)

    @property
    def part_bytes(self) -> int:
        return part_bytes_for(self.file.size)

    @property
    def num_parts(self) -> int:
        return -(-self.file.size // self.part_bytes)

    def begin(self) -> None:
        """Go on with the newest unfinished upload of this key, or start one.

        Raises Passing or Refused.
        """
        self.sent.by_sha256 = self.wire.proves_sha256(self.reach, self.spare)
        self._find_unfinished()
        self._is_new = not self._upload_id
        if self._is_new:
            self._start()

    def send_part(self, number: int, on_bytes: OnBytes) -> None:
        """Send a part, if it does not lie there; complete the upload if it was the last.

        Raises Passing, Refused, or CannotGoOn.
        """
        with self._told_apart(), closing(self._part(number)) as body:
            digest = self._digest_if_there(number, body)
            if digest is None:
                by_sha256 = self.sent.by_sha256
                send = self.wire.upload_part_by_sha256 if by_sha256 else self.wire.upload_part
                which = {"UploadId": self._upload_id, "PartNumber": number}
                digest, etag = send(self.reach, body, **self.key, **which)
                self._there[number] = _Part(etag=etag)
        with self._lock, self._told_apart():
            if number not in self.sent.digests:
                on_bytes(body.size)
            self.sent.digests[number] = digest
            if len(self.sent.digests) == self.num_parts and not self.sent.etag:
                self._complete()

    def give_up(self) -> None:
        """Have the server forget the upload, so far as it listens."""
        self.wire.given_up.add(self._upload_id)
        with suppress(PermanentError, TransientError):
            self._abort(self._upload_id)

    def _part(self, number: int) -> Body:
        start = (number - 1) * self.part_bytes
        size = min(self.part_bytes, self.file.size - start)
        return Body.of_file(self.file.path, start=start, size=size)

    def _find_unfinished(self) -> None:
        """Look for an upload to go on with. Older ones of the same key are given up, since their
        parts cost storage for ever."""
        client, key = self.wire.client, self.key["Key"]
        with suppress(
            PermanentError, TransientError
        ):  # no right to list, or a server without the call
            answer = self.reach(
                client.list_multipart_uploads, Bucket=self.key["Bucket"], Prefix=key
            )
            found = [
                each
                for each in answer.get("Uploads", ())
                if each["Key"] == key and each["UploadId"] not in self.wire.given_up
            ]
            found.sort(key=lambda each: str(each.get("Initiated", "")))
            for old in found[:-1]:
                self._abort(old["UploadId"])
            if found:
                upload_id = str(found[-1]["UploadId"])
                self._there, self._upload_id = self._parts_of(upload_id), upload_id

    def _parts_of(self, upload_id: str) -> dict[int, _Part]:
        found: dict[int, _Part] = {}
        more: dict[str, int] = {}
        while True:
            which = {**self.key, "UploadId": upload_id, **more}
            page = self.reach(self.wire.client.list_parts, **which)
            for part in page.get("Parts", ()):
                checksum = str(part.get("ChecksumSHA256", ""))
                found[int(part["PartNumber"])] = _Part(etag=etag_in(part), checksum=checksum)
            if not page.get("IsTruncated"):
                return found
            more = {"PartNumberMarker": int(page["NextPartNumberMarker"])}

    def _start(self) -> None:
        call = self.wire.client.create_multipart_upload
        create = partial(self.reach, call, **self.key)
        if self.sent.by_sha256:
            try:
                self._upload_id = str(create(ChecksumAlgorithm="SHA256")["UploadId"])
                return
            except (PermanentError, TransientError) as error:
                if not code_of(error.__cause__):
                    raise
                self.wire.knows_no_sha256()
                self.sent.by_sha256 = False
        self._upload_id = str(create()["UploadId"])

    def _digest_if_there(self, number: int, body: Body) -> bytes | None:
        """The digest of a part that lies there already, or None where it must be sent."""
        part, by_sha256 = self._there.get(number), self.sent.by_sha256
        if not part:
            return None
        digest = body.digest("sha256" if by_sha256 else "md5")
        if part.checksum and by_sha256:
            return digest if part.checksum == in_base64(digest) else None
        md5 = body.digest("md5") if by_sha256 else digest
        return digest if part.etag == md5.hex() else None

    def _complete(self) -> None:
        parts: list[dict[str, Any]] = []
        for number, digest in sorted(self.sent.digests.items()):
            part = {"PartNumber": number, "ETag": f'"{self._there[number].etag}"'}
            checksum = {"ChecksumSHA256": in_base64(digest)} if self.sent.by_sha256 else {}
            parts.append(part | checksum)
        answer = self.reach(
            self.wire.client.complete_multipart_upload,
            **self.key,
            UploadId=self._upload_id,
            MultipartUpload={"Parts": parts},
        )
        self.sent.etag = etag_in(answer) or "unknown"

    def _abort(self, upload_id: str) -> None:
        self.reach(self.wire.client.abort_multipart_upload, **self.key, UploadId=upload_id)

    @contextmanager
    def _told_apart(self) -> Generator[None]:
        """Tell what only a new upload can help against from the rest. Raises CannotGoOn for it."""
        try:
            yield
        except (PermanentError, TransientError) as error:
            is_lost = code_of(error.__cause__) == "NoSuchUpload"
            if is_lost or (isinstance(error, PermanentError) and not self._is_new):
                raise CannotGoOn(self) from error
            raise
