"""How bytes travel to an S3 server, and what is known of them when they have arrived.

At first lightly: over TLS, which keeps them whole, without a signature of their own (over plain
HTTP with one), and the ETag of each answer, the MD5 that the server took, is held against that of
what was sent. A server that refuses this, or whose ETags are no MD5 (KMS encryption), is sent
everything with a signed SHA-256 and an MD5 from then on, which it checks on arrival.
"""

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from tenner.delivery.retry import Refused
from tenner.delivery.s3_client import Answer, S3Client

Reach = Callable[..., Answer]
"""Makes a call of the client, with its errors as Passing or Refused."""


class Wire:
    """The way to one server, for all threads that send."""

    def __init__(self, light: S3Client, open_strict: Callable[[], S3Client]) -> None:
        self.client = light
        self._open_strict = open_strict
        self._is_strict = False

    def put_object(self, reach: Reach, content: bytes, **wanted: Any) -> tuple[bytes, str]:
        """Send a whole object; its MD5, and the ETag that the server gave it."""
        return self._send("put_object", reach, content, wanted)

    def upload_part(self, reach: Reach, content: bytes, **wanted: Any) -> tuple[bytes, str]:
        """Send a part; its MD5, and the ETag that the server gave it."""
        return self._send("upload_part", reach, content, wanted)

    def _send(
        self, call: str, reach: Reach, content: bytes, wanted: dict[str, Any]
    ) -> tuple[bytes, str]:
        digest = hashlib.md5(content, usedforsecurity=False)
        if not self._is_strict:
            try:
                etag = etag_in(reach(getattr(self.client, call), Body=content, **wanted))
                if etag == digest.hexdigest():
                    return digest.digest(), etag
            except Refused:
                pass  # for another reason it is refused again
            self._be_strict()
        proof = base64.b64encode(digest.digest()).decode()
        answer = reach(getattr(self.client, call), Body=content, ContentMD5=proof, **wanted)
        return digest.digest(), etag_in(answer)

    def _be_strict(self) -> None:
        if not self._is_strict:
            self.client = self._open_strict()
            self._is_strict = True


def etag_in(answer: Answer) -> str:
    """The ETag of an answer, without its quotes."""
    return str(answer.get("ETag", "")).strip('"').lower()
