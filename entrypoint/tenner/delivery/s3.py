"""Delivery to S3 and the servers that speak it (MinIO, R2, B2, Wasabi, Ceph, ...).

What was stored is verified by size and by the hash that the server itself names, against that of
the bytes that were sent (`s3_wire`): the SHA-256 of its parts where the server was seen to check
those, else the ETag, which is an MD5 or one of its parts' MD5s. No other checksum is sent, and to
servers that refuse them (R2 and B2 some) none. Where an ETag is something else (KMS encryption) and
there is no SHA-256, the object is read back and its SHA-256 compared.

Uploads go on: parts of an unfinished multipart upload that lie there already, from this process or
an earlier one, are compared by hash and not sent again.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from secrets import token_hex

from tenner.delivery.destination import Destination
from tenner.delivery.endpoint import find_endpoint
from tenner.delivery.parallel import first_error, in_parallel
from tenner.delivery.retry import Deadline, Passing, Refused
from tenner.delivery.s3_body import Body
from tenner.delivery.s3_client import NUM_CONNECTIONS, S3Client, call, code_of, open_client
from tenner.delivery.s3_multipart import part_bytes_for
from tenner.delivery.s3_proof import Digests, Sent, etag_in, etag_of
from tenner.delivery.s3_upload import send_files
from tenner.delivery.s3_wire import Wire
from tenner.delivery.sealing import SealedFile, changed_since
from tenner.delivery.store import OnBytes
from tenner.errors import Problem
from tenner.secrets import Secrets

_BLOCK_BYTES = 1 << 20
_FORBIDDEN = {"403", "AccessDenied", "Forbidden"}
_NOTHING = hashlib.md5(usedforsecurity=False).digest()
_ABSENT = {"404", "NoSuchKey", "NotFound"}


def open_s3(destination: Destination, *, secrets: Secrets, env: Mapping[str, str]) -> "S3Store":
    """Raises Refused where botocore is missing or the settings cannot work."""
    try:
        endpoint = find_endpoint(
            destination.root, asked=destination.endpoint_url, region=destination.region, env=env
        )
    except ValueError as error:
        problem = Problem(
            text=f"{destination}: {error}",
            fix="write it as https://host or https://host:port (AWS_ENDPOINT_URL or endpoint_url=)",
        )
        raise Refused(problem) from error
    light = open_client(destination, endpoint, secrets=secrets, env=env, signs_payload=False)
    strict = partial(open_client, destination, endpoint, secrets=secrets, env=env)
    return S3Store(destination, Wire(light, partial(strict, signs_payload=True)))


class S3Store:
    """A bucket, or a prefix in one."""

    whole_sets = False

    def __init__(self, destination: Destination, wire: Wire) -> None:
        self.destination = destination
        self._wire = wire
        self._sent: dict[str, Sent] = {}

    @property
    def _client(self) -> S3Client:
        return self._wire.client

    def probe(self, deadline: Deadline) -> tuple[Problem, ...]:
        name, content = f".tenner-check-{token_hex(4)}", token_hex(16).encode()
        key = self._key(name)
        self._wire.put_object(partial(call, self.destination, deadline), Body.of(content), **key)
        back = self.read(name, deadline)
        try:
            call(self.destination, deadline, self._client.delete_object, **key)
        except Refused as refused:
            text = f"{self.destination}: files can be written but not deleted"
            return (Problem(text=text, fix=refused.problem.fix, level="warning"),)
        if back != content:
            text = f"{self.destination} gives back other bytes than were written"
            return (Problem(text=text, fix="this server does not keep what it is given"),)
        return ()

    def missing(self, files: Sequence[SealedFile], deadline: Deadline) -> tuple[SealedFile, ...]:
        looks = [partial(self._holds, file, deadline) for file in files]
        found = in_parallel(
            looks, num_workers=NUM_CONNECTIONS, deadline=deadline, name="tenner-s3-look"
        )
        if error := first_error(found):
            raise error
        return tuple(file for file, held in zip(files, found, strict=True) if not held)

    def _holds(self, file: SealedFile, deadline: Deadline) -> bool:
        sent = self._sent.get(file.name)
        sent = sent if sent and sent.file == file else None  # a name may be sent anew
        mode = {"ChecksumMode": "ENABLED"} if sent and sent.by_sha256 else {}
        key = self._key(file.name)
        try:
            head = call(self.destination, deadline, self._client.head_object, **key, **mode)
        except Refused as refused:
            code = refused.code
            # Without the right to list, AWS answers 403 for what is not there.
            if code in _ABSENT or (code in _FORBIDDEN and file.name not in self._sent):
                return False
            raise
        if head["ContentLength"] != file.size:
            return False
        if sent and file.is_as_sealed() and sent.is_what_lies_there(head):
            return True
        if etag_agrees(file, etag_in(head)):
            return True
        return self._read_hash(file.name, deadline) == (file.size, file.sha256)

    def put(
        self,
        files: Sequence[SealedFile],
        deadline: Deadline,
        on_bytes: OnBytes,
        gone: Sequence[str] = (),
    ) -> None:
        self._sent |= {file.name: Sent(file=file) for file in files}
        self._sent |= send_files(self._wire, self.destination, files, deadline, on_bytes)
        self.delete(gone, deadline)

    def create(self, name: str, content: bytes, deadline: Deadline) -> bool:
        given = {**self._key(name), "Body": content, "IfNoneMatch": "*"}
        try:
            call(self.destination, deadline, self._client.put_object, **given)
        except Passing as trouble:
            if code_of(trouble.__cause__) == "PreconditionFailed":
                return False
            raise
        return True

    def read(self, name: str, deadline: Deadline) -> bytes | None:
        try:
            answer = call(self.destination, deadline, self._client.get_object, **self._key(name))
        except Refused as refused:
            if refused.code in _ABSENT:
                return None
            raise
        return call(self.destination, deadline, answer["Body"].read)

    def version(self, name: str, deadline: Deadline) -> tuple[int, str]:
        """Size in bytes and ETag of an object. Raises Refused where there is none."""
        head = call(self.destination, deadline, self._client.head_object, **self._key(name))
        return int(head["ContentLength"]), str(head.get("ETag", ""))

    def fetch(
        self, name: str, target: Path, deadline: Deadline, on_bytes: OnBytes | None = None
    ) -> None:
        from tenner.delivery.s3_download import download_object

        key = self._key(name)
        download_object(self._client, self.destination, key, target, deadline, on_bytes)

    def names(self, under: str, deadline: Deadline) -> tuple[str, ...]:
        root = self.destination.name_in_root("")
        start = {"Bucket": self.destination.root, "Prefix": root + (f"{under}/" if under else "")}
        found: list[str] = []
        more: dict[str, str] = {}
        while True:
            page = call(self.destination, deadline, self._client.list_objects_v2, **start, **more)
            found += [str(each["Key"]).removeprefix(root) for each in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return tuple(sorted(found))
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, names: Sequence[str], deadline: Deadline) -> None:
        for name in names:  # one by one: the call for many needs a checksum that some refuse
            call(self.destination, deadline, self._client.delete_object, **self._key(name))

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


def etag_agrees(file: SealedFile, etag: str) -> bool:
    """Whether an object's ETag is the one that the sealed file would have.

    False says little: the ETag may be no MD5 at all (KMS encryption), or one of parts of another
    size. Raises Refused where the file is no more what it was when it was sealed.
    """
    digest, dash, count = etag.partition("-")
    if len(digest) != 32 or (dash and not count.isdigit()):
        return False
    part_bytes = part_bytes_for(file.size) if dash else max(file.size, 1)
    if dash and int(count) != -(-file.size // part_bytes):
        return False
    digests: Digests = {}
    whole = hashlib.sha256()
    with file.path.open("rb", buffering=0) as source:
        while block := source.read(min(part_bytes, _BLOCK_BYTES)):
            part = hashlib.md5(block, usedforsecurity=False)
            whole.update(block)
            left = part_bytes - len(block)
            while left and (block := source.read(min(left, _BLOCK_BYTES))):
                part.update(block)
                whole.update(block)
                left -= len(block)
            digests[len(digests) + 1] = part.digest()
    if whole.hexdigest() != file.sha256 and (changed := changed_since(file)):
        raise Refused(changed)
    return etag == etag_of(digests or {1: _NOTHING}, whole=not dash)
