"""What a client library reads of a part: the right bytes, hashed, in few and small blocks."""

import hashlib
import os
from io import SEEK_END, BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenner.core.retry import TransientError
from tenner.storage.s3_body import Body


class Trickle(BytesIO):
    """Gives at most 1,000 bytes at once, as files of a network may."""

    def readinto(self, block: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().readinto(block[:1000])


@given(content=st.binary(max_size=5000), start=st.integers(0, 5000), size=st.integers(0, 5000))
def test_a_stretch_is_read_and_hashed(content: bytes, start: int, size: int) -> None:
    wanted = content[start : start + size]
    body = Body(Trickle(content), start=start, size=len(wanted), name="x")
    assert b"".join(bytes(block) for block in iter(body.read, b"")) == wanted
    assert body.md5 == hashlib.md5(wanted).digest()
    assert body.seek(0, SEEK_END) == len(wanted)
    assert body.digest("sha256") == hashlib.sha256(wanted).digest()
    assert body.tell() == 0


def test_a_large_part_is_read_in_small_blocks(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(os.urandom(1 << 20))
    body = Body.of_file(path, start=100, size=(1 << 20) - 100)
    sizes = [len(block) for block in iter(body.read, b"")]
    body.close()
    assert max(sizes) == 256 << 10
    assert sum(sizes) == (1 << 20) - 100


def test_a_file_that_became_shorter_is_no_part(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(10))
    body = Body.of_file(path, size=20)
    with pytest.raises(TransientError, match="became shorter"):
        body.read()
    body.close()
