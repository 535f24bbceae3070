"""`bench.image_size` measures layers as they are: by the real compressors' own sizes."""

import gzip
import io
import random
import tarfile

import zstandard

from bench.image_size import ZSTD_LEVEL, Layer, is_layer, measured


def layer_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_a_layers_sizes_are_those_that_compressors_make_of_it() -> None:
    noise = random.Random(0).randbytes(6_000_000)
    files = {"opt/noise": noise, "opt/zeros": bytes(7_000_000), "small": b"words" * 100}
    content = layer_of(files)
    found = measured(Layer(number=0), io.BytesIO(content))
    assert found.unpacked == len(content)
    assert abs(found.gzip - len(gzip.compress(content, 6))) < 2000
    assert (
        abs(found.zstd - len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(content))) < 2000
    )
    assert set(found.files) == {"opt/noise", "opt/zeros"}
    assert 5_900_000 < found.files["opt/noise"] < 6_100_000
    assert found.files["opt/zeros"] < 100_000


def test_layers_are_reported_from_notes_in_both_forms_of_save() -> None:
    def member(name: str, size: int) -> tarfile.TarInfo:
        found = tarfile.TarInfo(name)
        found.size = size
        return found

    assert is_layer(member("0ab/layer.tar", 10))
    assert is_layer(member("blobs/sha256/0ab", 30_000))
    assert not is_layer(member("blobs/sha256/0ab", 900))
    assert not is_layer(member("manifest.json", 900))
