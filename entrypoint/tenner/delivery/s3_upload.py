"""Sending files to S3: small ones whole, large ones in parts, all on one set of connections."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

from tenner.delivery.destination import Destination
from tenner.delivery.manifest import SealedFile
from tenner.delivery.parallel import first_error, in_parallel
from tenner.delivery.retry import Deadline, Passing, Refused, retrying
from tenner.delivery.s3_client import NUM_CONNECTIONS, S3Client, call
from tenner.delivery.s3_wire import Reach, Wire, etag_in
from tenner.delivery.store import OnBytes

_SMALLEST_PART_BYTES = 8 << 20
_MOST_PARTS = 10_000  # S3's limit
_MIB = 1 << 20

Digests = dict[int, bytes]
"""The MD5 of each part of a file, by its number from 1; of one that went up whole, that of all."""


@dataclass(kw_only=True)
class Sent:
    """What was sent of the file with this hash, and the ETag that the server gave it in the end."""

    sha256: str
    digests: Digests = field(default_factory=Digests)
    etag: str = ""

    @property
    def is_confirmed(self) -> bool:
        """Whether the server took the same hashes of what arrived."""
        return self.etag != "" and self.etag == etag_of(self.digests, whole="-" not in self.etag)


def etag_of(digests: Digests, *, whole: bool) -> str:
    """The ETag that S3 gives to what was sent in these parts, or in one piece."""
    if whole:
        return digests[1].hex() if len(digests) == 1 else ""
    parts = b"".join(digests[number] for number in sorted(digests))
    return f"{hashlib.md5(parts, usedforsecurity=False).hexdigest()}-{len(digests)}"


@dataclass(kw_only=True)
class _Upload:
    """A multipart upload under way. `etags` are those of the parts that lie there, `arrived` the
    numbers of those that this process has seen to."""

    file: SealedFile
    key: dict[str, str]
    upload_id: str
    part_bytes: int
    etags: dict[int, str] = field(default_factory=dict[int, str])
    sent: Sent
    arrived: set[int] = field(default_factory=set[int])
    lock: Lock = field(default_factory=Lock)

    @property
    def num_parts(self) -> int:
        return -(-self.file.size // self.part_bytes)


def part_bytes_for(size: int) -> int:
    """The part size for a file of `size` bytes: 8 MiB, more where 10,000 parts do not reach.

    All parts but the last are of one size, as R2 wants it.
    """
    needed = -(-size // _MOST_PARTS)
    return max(_SMALLEST_PART_BYTES, -(-needed // _MIB) * _MIB)


def send_files(
    wire: Wire,
    destination: Destination,
    files: Sequence[SealedFile],
    deadline: Deadline,
    on_bytes: OnBytes,
) -> dict[str, Sent]:
    """Send all files, parts of several side by side; what was sent of each, by its name.

    Raises Passing or Refused.
    """
    reach = partial(call, destination, deadline)
    jobs: list[Callable[[], None]] = []
    sent = {file.name: Sent(sha256=file.sha256) for file in files}
    for file in files:
        key = {"Bucket": destination.root, "Key": destination.name_in_root(file.name)}
        if file.size <= _SMALLEST_PART_BYTES:
            one = sent[file.name]
            jobs.append(partial(_send_whole, wire, reach, file, key, on_bytes, one))
            continue
        upload = _begin(wire.client, reach, file, key, sent[file.name])
        jobs += [
            partial(_send_part, wire, reach, upload, number, on_bytes)
            for number in range(1, upload.num_parts + 1)
        ]
    tried = [partial(retrying, deadline, job) for job in jobs]
    results = in_parallel(tried, num_workers=NUM_CONNECTIONS, deadline=deadline, name="tenner-s3")
    if error := first_error(results):
        raise error
    return sent


def _send_whole(
    wire: Wire,
    reach: Reach,
    file: SealedFile,
    key: dict[str, str],
    on_bytes: OnBytes,
    sent: Sent,
) -> None:
    with file.path.open("rb") as source:
        content = source.read(file.size)
    _refuse_changed(file, len(content) == file.size)
    metadata = {"sha256": file.sha256}
    sent.digests[1], sent.etag = wire.put_object(reach, content, **key, Metadata=metadata)
    on_bytes(file.size)


def _begin(
    client: S3Client,
    reach: Reach,
    file: SealedFile,
    key: dict[str, str],
    sent: Sent,
) -> _Upload:
    """Go on with the newest unfinished upload of this key, or start one."""
    upload_id, etags = _unfinished(client, reach, key)
    if not upload_id:
        answer = reach(client.create_multipart_upload, **key, Metadata={"sha256": file.sha256})
        upload_id = str(answer["UploadId"])
    return _Upload(
        file=file,
        key=key,
        upload_id=upload_id,
        part_bytes=part_bytes_for(file.size),
        etags=etags,
        sent=sent,
    )


def _unfinished(client: S3Client, reach: Reach, key: dict[str, str]) -> tuple[str, dict[int, str]]:
    """The id of the newest unfinished upload of a key and the ETags of its parts.

    Older ones of the same key are given up, since their parts cost storage for ever.
    """
    try:
        answer = reach(client.list_multipart_uploads, Bucket=key["Bucket"], Prefix=key["Key"])
        found = [each for each in answer.get("Uploads", ()) if each["Key"] == key["Key"]]
        found.sort(key=lambda each: str(each.get("Initiated", "")))
        for old in found[:-1]:
            reach(client.abort_multipart_upload, **key, UploadId=old["UploadId"])
        if not found:
            return "", {}
        return str(found[-1]["UploadId"]), _parts(client, reach, key, found[-1]["UploadId"])
    except (Refused, Passing):
        return "", {}  # no right to list, or a server without the call: then from the start


def _parts(client: S3Client, reach: Reach, key: dict[str, str], upload_id: str) -> dict[int, str]:
    etags: dict[int, str] = {}
    more: dict[str, int] = {}
    while True:
        page = reach(client.list_parts, **key, UploadId=upload_id, **more)
        for part in page.get("Parts", ()):
            etags[int(part["PartNumber"])] = str(part["ETag"])
        if not page.get("IsTruncated"):
            return etags
        more = {"PartNumberMarker": int(page["NextPartNumberMarker"])}


def _send_part(
    wire: Wire,
    reach: Reach,
    upload: _Upload,
    number: int,
    on_bytes: OnBytes,
) -> None:
    start = (number - 1) * upload.part_bytes
    wanted = min(upload.part_bytes, upload.file.size - start)
    with upload.file.path.open("rb", buffering=0) as source:
        source.seek(start)
        content = source.read(wanted)
    _refuse_changed(upload.file, len(content) == wanted)
    known = upload.etags.get(number, "").strip('"')
    digest = hashlib.md5(content, usedforsecurity=False).digest() if known else b""
    if not known or known != digest.hex():
        which = {"UploadId": upload.upload_id, "PartNumber": number}
        digest, etag = wire.upload_part(reach, content, **upload.key, **which)
        upload.etags[number] = f'"{etag}"'
    upload.sent.digests[number] = digest
    with upload.lock:
        if number not in upload.arrived:
            upload.arrived.add(number)
            on_bytes(wanted)
        if len(upload.arrived) == upload.num_parts and not upload.sent.etag:
            _complete(wire.client, reach, upload)


def _complete(client: S3Client, reach: Reach, upload: _Upload) -> None:
    numbers = range(1, upload.num_parts + 1)
    parts = [{"PartNumber": number, "ETag": upload.etags[number]} for number in numbers]
    answer = reach(
        client.complete_multipart_upload,
        **upload.key,
        UploadId=upload.upload_id,
        MultipartUpload={"Parts": parts},
    )
    upload.sent.etag = etag_in(answer) or "unknown"


def _refuse_changed(file: SealedFile, same: bool) -> None:
    if not same:
        raise Passing(f"{file.path} became shorter while it was delivered")
