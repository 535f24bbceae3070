"""What proves that an object at an S3 server is what was sent: its ETag, or its SHA-256."""

import base64
import hashlib
from dataclasses import dataclass, field

from tenner.core.checksums import HashedFile
from tenner.storage.s3_client import Answer

Digests = dict[int, bytes]
"""The hash of each part of a file, by its number from 1; of one that went up whole, that of all."""


@dataclass(kw_only=True)
class Sent:
    """What was sent of a file, and the ETag that the server gave it in the end.

    `digests` are SHA-256s where the server proves those (`by_sha256`), else MD5s.
    """

    file: HashedFile
    digests: Digests = field(default_factory=Digests)
    by_sha256: bool = False
    etag: str = ""

    def is_what_lies_there(self, head: Answer) -> bool:
        """Whether the server, asked for the object, names the hashes of what was sent."""
        if self.by_sha256:
            return head.get("ChecksumSHA256") == checksum_of(self.digests)
        etag = etag_in(head)
        if self.etag == "" or self.etag != etag_of(self.digests, whole="-" not in self.etag):
            return False
        # Some servers name what came in parts by its MD5 as soon as it is whole.
        return etag == self.etag or ("-" in self.etag and "-" not in etag)


def etag_of(digests: Digests, *, whole: bool) -> str:
    """The ETag that S3 gives to what was sent in parts of these MD5s, or in one piece."""
    if whole:
        return digests[1].hex() if len(digests) == 1 else ""
    return f"{hashlib.md5(_joined(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def checksum_of(digests: Digests) -> str:
    """The checksum that S3 gives to what was sent in parts of these SHA-256s."""
    return f"{in_base64(hashlib.sha256(_joined(digests)).digest())}-{len(digests)}"


def etag_in(answer: Answer) -> str:
    """The ETag of an answer, without its quotes."""
    return str(answer.get("ETag", "")).strip('"').lower()


def in_base64(digest: bytes) -> str:
    """A hash as S3's headers have it."""
    return base64.b64encode(digest).decode()


def _joined(digests: Digests) -> bytes:
    return b"".join(digests[number] for number in sorted(digests))
