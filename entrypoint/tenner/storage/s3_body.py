"""Bytes on their way to an S3 server: read in small blocks as they are sent, hashed meanwhile.

A block is read, hashed and sent while it lies in the processor's cache, so that a file of any size
needs little memory (`bench/delivery_s3.py`).
"""

import hashlib
from io import SEEK_END, BytesIO, RawIOBase
from pathlib import Path
from typing import Self

from tenner.core.retry import TransientError

_BLOCK_BYTES = 256 << 10


class Body:
    """`size` bytes of a source from `start`, as a client library reads them."""

    def __init__(self, source: RawIOBase | BytesIO, *, start: int, size: int, name: str) -> None:
        self._source = source
        self._start = start
        self.size = size
        self._name = name
        self._block = memoryview(bytearray(min(size, _BLOCK_BYTES)))
        self._takes_md5 = True
        self.seek(0)

    @classmethod
    def of_file(cls, path: Path, *, start: int = 0, size: int) -> Self:
        """A stretch of a file, which stays open until the body is closed. Raises OSError."""
        return cls(path.open("rb", buffering=0), start=start, size=size, name=str(path))

    @classmethod
    def of(cls, content: bytes) -> Self:
        return cls(BytesIO(content), start=0, size=len(content), name="memory")

    @property
    def md5(self) -> bytes:
        """The MD5 of what was read since the last `seek`, where no digest was asked for before."""
        return self._md5.digest()

    def digest(self, algorithm: str) -> bytes:
        """The hash of all of it, which is read for it now; no MD5 is taken after that.

        Raises Passing.
        """
        found = hashlib.new(algorithm, usedforsecurity=False)
        self._takes_md5 = False
        self.seek(0)
        while block := self.read():
            found.update(block)
        self.seek(0)
        return found.digest()

    def read(self, _: int = -1) -> memoryview:
        """The next block, which is good until the next `read`; empty at the end.

        A block's size is our own, whatever is asked for: libraries ask for 16 KiB. Raises Passing
        where the file ends before `size`.
        """
        block = self._block[: self.size - self._at]
        filled = 0
        while filled < len(block):
            got = self._source.readinto(block[filled:])  # a network's files may give less at once
            if not got:
                raise TransientError(f"{self._name} became shorter while it was delivered")
            filled += got
        self._at += filled
        if self._takes_md5:
            self._md5.update(block)
        return block

    def seek(self, at: int, whence: int = 0) -> int:
        self._at = self.size if whence == SEEK_END else at
        self._source.seek(self._start + self._at)
        self._md5 = hashlib.md5(usedforsecurity=False)
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._source.close()
