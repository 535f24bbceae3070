"""How bytes travel to an S3 server, and what is known of them when they have arrived.

The best proof that the server gives is asked for:

- By SHA-256, in parts, where the server names that checksum and was seen to refuse a wrong one
  (some take the header and never look): it checks each part, and keeps their checksum.
- Else lightly: over TLS or on this machine, which keep them whole, without a signature of their own
  (over other plain HTTP with one), and the ETag of each answer, the MD5 that the server took, is
  held against that of what was sent.
- A server that refuses this, or whose ETags are no MD5 (KMS encryption), is sent everything with a
  signed SHA-256 and an MD5 from then on, which it checks on arrival.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any

from tenner.core.retry import PermanentError, TransientError
from tenner.storage.s3_body import Body
from tenner.storage.s3_client import Answer, S3Client, code_of
from tenner.storage.s3_proof import etag_in, in_base64

Reach = Callable[..., Answer]
"""Makes a call of the client, with its errors as Passing or Refused."""

_SAYS_IT_DIFFERS = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"}


class Wire:
    """The way to one server, for all threads that send."""

    def __init__(self, light: S3Client, open_strict: Callable[[], S3Client]) -> None:
        self.client = light
        self._open_strict = open_strict
        self._is_strict = False
        self._proves_sha256: bool | None = None
        self._lock = Lock()
        self.given_up: set[str] = set()
        """The ids of unfinished uploads that are not gone on with any more."""

    def proves_sha256(self, reach: Reach, spare: dict[str, str]) -> bool:
        """Whether the server looks at the SHA-256 of what it gets. It is sent a wrong one, once,
        for the key `spare`, which nothing lies under.

        Raises Passing where no answer came.
        """
        with self._lock:
            if self._proves_sha256 is None:
                self._proves_sha256 = self._refuses_a_wrong_one(reach, spare)
            return self._proves_sha256

    def knows_no_sha256(self) -> None:
        """Of a server that names it for whole objects alone."""
        self._proves_sha256 = False

    def put_object(self, reach: Reach, body: Body, **wanted: Any) -> tuple[bytes, str]:
        """Send a whole object; its MD5, and the ETag that the server gave it."""
        return self._send("put_object", reach, body, wanted)

    def upload_part(self, reach: Reach, body: Body, **wanted: Any) -> tuple[bytes, str]:
        """Send a part; its MD5, and the ETag that the server gave it."""
        return self._send("upload_part", reach, body, wanted)

    def upload_part_by_sha256(self, reach: Reach, body: Body, **wanted: Any) -> tuple[bytes, str]:
        """Send a part that the server checks; its SHA-256, and the ETag that the server gave it.

        Raises Passing where the server took another one.
        """
        digest = body.digest("sha256")
        proof = in_base64(digest)
        answer = reach(self.client.upload_part, Body=body, ChecksumSHA256=proof, **wanted)
        if answer.get("ChecksumSHA256") != proof:
            raise TransientError("what arrived has another SHA-256 than what was sent")
        return digest, etag_in(answer)

    def _send(
        self, call: str, reach: Reach, body: Body, wanted: dict[str, Any]
    ) -> tuple[bytes, str]:
        if not self._is_strict:
            try:
                etag = etag_in(reach(getattr(self.client, call), Body=body, **wanted))
                if etag == body.md5.hex():
                    return body.md5, etag
            except PermanentError:
                pass  # for another reason it is refused again
            self._be_strict()
        digest = body.digest("md5")
        proof = in_base64(digest)
        answer = reach(getattr(self.client, call), Body=body, ContentMD5=proof, **wanted)
        return digest, etag_in(answer)

    def _refuses_a_wrong_one(self, reach: Reach, spare: dict[str, str]) -> bool:
        wrong = in_base64(hashlib.sha256(b"another").digest())
        try:
            reach(self.client.put_object, Body=b"tenner", ChecksumSHA256=wrong, **spare)
        except (PermanentError, TransientError) as answer:
            if code := code_of(answer.__cause__):
                return code in _SAYS_IT_DIFFERS
            raise
        with suppress(PermanentError, TransientError):
            reach(self.client.delete_object, **spare)
        return False

    def _be_strict(self) -> None:
        if not self._is_strict:
            self.client = self._open_strict()
            self._is_strict = True
