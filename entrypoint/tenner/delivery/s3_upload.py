"""Sending files to S3: small ones whole, large ones in parts, all on one set of connections."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tenner.delivery.destination import Destination
from tenner.delivery.manifest import SealedFile
from tenner.delivery.parallel import first_error, in_parallel
from tenner.delivery.retry import Deadline, Passing, Refused, retrying
from tenner.delivery.s3_client import NUM_CONNECTIONS, Answer, S3Client, call
from tenner.delivery.store import OnBytes

_SMALLEST_PART_BYTES = 8 << 20
_MOST_PARTS = 10_000  # S3's limit
_MIB = 1 << 20

Digests = dict[int, bytes]
"""The MD5 of each part of a file, by its number from 1; of one that went up whole, that of all."""


@dataclass(kw_only=True)
class _Upload:
    """A multipart upload under way. `etags` are those of the parts that have arrived."""

    file: SealedFile
    key: dict[str, str]
    upload_id: str
    part_bytes: int
    etags: dict[int, str] = field(default_factory=dict[int, str])
    digests: Digests = field(default_factory=Digests)


def part_bytes_for(size: int) -> int:
    """The part size for a file of `size` bytes: 8 MiB, more where 10,000 parts do not reach.

    All parts but the last are of one size, as R2 wants it.
    """
    needed = -(-size // _MOST_PARTS)
    return max(_SMALLEST_PART_BYTES, -(-needed // _MIB) * _MIB)


def send_files(
    client: S3Client,
    destination: Destination,
    files: Sequence[SealedFile],
    deadline: Deadline,
    on_bytes: OnBytes,
) -> dict[str, Digests]:
    """Send all files, parts of several side by side; what was sent of each, by its name.

    Raises Passing or Refused.
    """
    reach = partial(call, destination, deadline)
    jobs: list[Callable[[], None]] = []
    uploads: list[_Upload] = []
    sent: dict[str, Digests] = {file.name: {} for file in files}
    for file in files:
        key = {"Bucket": destination.root, "Key": destination.name_in_root(file.name)}
        if file.size <= _SMALLEST_PART_BYTES:
            digests = sent[file.name]
            jobs.append(partial(_send_whole, client, reach, file, key, on_bytes, digests))
            continue
        upload = _begin(client, reach, file, key, sent[file.name])
        uploads.append(upload)
        num_parts = -(-file.size // upload.part_bytes)
        jobs += [
            partial(_send_part, client, reach, upload, number, on_bytes)
            for number in range(1, num_parts + 1)
        ]
    tried = [partial(retrying, deadline, job) for job in jobs]
    results = in_parallel(tried, num_workers=NUM_CONNECTIONS, deadline=deadline, name="tenner-s3")
    if error := first_error(results):
        raise error
    for upload in uploads:
        _complete(client, reach, upload)
    return sent


def _send_whole(
    client: S3Client,
    reach: Callable[..., Answer],
    file: SealedFile,
    key: dict[str, str],
    on_bytes: OnBytes,
    digests: Digests,
) -> None:
    with file.path.open("rb") as source:
        content = source.read(file.size)
    _refuse_changed(file, len(content) == file.size)
    digest = hashlib.md5(content, usedforsecurity=False).digest()
    digests[1] = digest
    reach(
        client.put_object,
        **key,
        Body=content,
        ContentMD5=base64.b64encode(digest).decode(),
        Metadata={"sha256": file.sha256},
    )
    on_bytes(file.size)


def _begin(
    client: S3Client,
    reach: Callable[..., Answer],
    file: SealedFile,
    key: dict[str, str],
    digests: Digests,
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
        digests=digests,
    )


def _unfinished(
    client: S3Client, reach: Callable[..., Answer], key: dict[str, str]
) -> tuple[str, dict[int, str]]:
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


def _parts(
    client: S3Client, reach: Callable[..., Answer], key: dict[str, str], upload_id: str
) -> dict[int, str]:
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
    client: S3Client,
    reach: Callable[..., Answer],
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
    digest = hashlib.md5(content, usedforsecurity=False)
    upload.digests[number] = digest.digest()
    if upload.etags.get(number, "").strip('"') != digest.hexdigest():
        answer = reach(
            client.upload_part,
            **upload.key,
            UploadId=upload.upload_id,
            PartNumber=number,
            Body=content,
            ContentMD5=base64.b64encode(digest.digest()).decode(),
        )
        upload.etags[number] = str(answer["ETag"])
    on_bytes(wanted)


def _complete(client: S3Client, reach: Callable[..., Answer], upload: _Upload) -> None:
    last = -(-upload.file.size // upload.part_bytes)
    parts = [{"PartNumber": number, "ETag": upload.etags[number]} for number in range(1, last + 1)]
    reach(
        client.complete_multipart_upload,
        **upload.key,
        UploadId=upload.upload_id,
        MultipartUpload={"Parts": parts},
    )


def _refuse_changed(file: SealedFile, same: bool) -> None:
    if not same:
        raise Passing(f"{file.path} became shorter while it was delivered")
