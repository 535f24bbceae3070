"""What proves that an object at an S3 server is what was sent: its SHA-256, or its ETag."""

import base64
import hashlib
from functools import lru_cache

from tenner.core.checksums import HashedFile, changed_since
from tenner.core.retry import PermanentError
from tenner.storage.s3_client import Answer

PART_BYTES = 8 << 20
"""Files up to this size are sent whole, larger ones in parts of it."""
_BLOCK_BYTES = 1 << 20


def part_bytes_for(size: int) -> int:
    """The part size for a file of `size` bytes: as s3transfer chooses it, 8 MiB and twice as much
    until it fits S3's limit of 10,000 parts."""
    from s3transfer.utils import ChunksizeAdjuster  # pyright: ignore[reportMissingTypeStubs]

    return int(ChunksizeAdjuster().adjust_chunksize(PART_BYTES, size))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def is_proven(file: HashedFile, answer: Answer) -> bool:
    """Whether an answer of the server (to HEAD, or to the upload) names the hash of this file.

    That is the SHA-256 of its parts' SHA-256s, or an ETag that is an MD5 or one of the parts' MD5s.
    The SHA-256 of a whole is no proof: some servers store a request's headers and return them
    unread. False does not prove a difference: the object may have been sent in parts of another
    size, or its ETag may be no MD5 (KMS encryption). Raises PermanentError where the file is not
    what it was when it was hashed.
    """
    found = str(answer.get("ChecksumSHA256", ""))
    if found and found == _expected(file, found, "sha256"):
        return True
    etag = str(answer.get("ETag", "")).strip('"').lower()
    return etag != "" and etag == _expected(file, etag, "md5")


def in_base64(digest: bytes) -> str:
    """A hash as S3's headers have it."""
    return base64.b64encode(digest).decode()


def _expected(file: HashedFile, found: str, algorithm: str) -> str:
    """What the server should name, in the form of `found`: of the whole, or `hash-parts`."""
    _, dash, count = found.partition("-")
    is_sha256 = algorithm == "sha256"
    if not dash and (is_sha256 or len(found) != 32):
        return ""  # so the file need not be read
    part_bytes = part_bytes_for(file.size) if dash else max(file.size, 1)
    if dash and count != str(-(-file.size // part_bytes)):
        return ""
    digests = _digests(file, part_bytes, algorithm)
    if not dash:
        return digests[0].hex()
    whole = hashlib.new(algorithm, b"".join(digests), usedforsecurity=False).digest()
    return f"{in_base64(whole) if is_sha256 else whole.hex()}-{len(digests)}"


@lru_cache(maxsize=64)
def _digests(file: HashedFile, part_bytes: int, algorithm: str) -> list[bytes]:
    """The hash of each part of a file. Raises PermanentError, OSError."""
    found: list[bytes] = []
    with file.path.open("rb", buffering=0) as source:
        while len(found) * part_bytes < max(file.size, 1):
            digest, left = hashlib.new(algorithm, usedforsecurity=False), part_bytes
            while left and (block := source.read(min(left, _BLOCK_BYTES))):
                digest.update(block)
                left -= len(block)
            found.append(digest.digest())
    if not file.is_as_hashed() and (changed := changed_since(file)):
        raise PermanentError(changed)
    return found
