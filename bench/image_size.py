"""What an image takes to pull: each layer's size, as gzip and as zstd, and the largest files in it.

python -m bench.image_size [IMAGE]        (tenner:slim, in the local Docker engine)

Layers are compressed here as they are published (gzip at its usual level, zstd at 12), on one core:
ten minutes. A file's own size is what the gzip stream grows by between its beginning and its end.
"""

import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, cast

import zstandard

CHUNK_BYTES = 1 << 20
ZSTD_LEVEL = 12
"""As in .github/workflows/image.yml; a seventh less than at BuildKit's own 3."""
LARGE_BYTES = 5_000_000
"""Files from here on are measured by themselves."""
NUM_FILES = 15
SECONDS_PER_GB = 8.0
"""On 1 Gbit/s; most hosts of cards have that or more."""


@dataclass
class Layer:
    """One layer: bytes as they are unpacked, and compressed both ways; large files by name."""

    number: int
    unpacked: int = 0
    gzip: int = 0
    zstd: int = 0
    files: dict[str, int] = field(default_factory=dict[str, int])


class Measure:
    """Compresses what is written to it both ways, and keeps nothing."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._gzip = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._zstd = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()

    def write(self, data: bytes) -> None:
        self.layer.unpacked += len(data)
        self.layer.gzip += len(self._gzip.compress(data))
        self.layer.zstd += len(self._zstd.compress(data))

    def mark(self) -> int:
        """How much gzip has written up to here."""
        self.layer.gzip += len(self._gzip.flush(zlib.Z_FULL_FLUSH))
        return self.layer.gzip

    def close(self) -> None:
        self.layer.gzip += len(self._gzip.flush())
        self.layer.zstd += len(self._zstd.flush())


class Watched:
    """A layer's tar as it is read: everything that passes goes to the compressors too."""

    def __init__(self, source: IO[bytes], measure: Measure) -> None:
        self._source, self._measure = source, measure

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._measure.write(data)
        return data


def layers(image: str) -> Iterator[Layer]:
    """Measure all layers of an image, in the order in which `docker save` gives them."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
        assert saved.stdout is not None
        with tarfile.open(fileobj=saved.stdout, mode="r|") as packed:
            for number, member in enumerate(each for each in packed if is_layer(each)):
                source = packed.extractfile(member)
                assert source is not None
                yield measured(Layer(number=number), source)
    if saved.returncode:
        sys.exit(f"docker save {image} failed")


def is_layer(member: tarfile.TarInfo) -> bool:
    """Older engines save `ID/layer.tar`, newer ones blobs, of which small ones are notes."""
    blob = member.name.startswith("blobs/") and member.size > 20_000
    return member.isfile() and (member.name.endswith("/layer.tar") or blob)


def measured(layer: Layer, source: IO[bytes]) -> Layer:
    """Read a layer's tar to its end."""
    measure = Measure(layer)
    watched = Watched(source, measure)
    with tarfile.open(fileobj=cast("IO[bytes]", watched), mode="r|", bufsize=65_536) as packed:
        for member in packed:
            if member.isfile() and member.size >= LARGE_BYTES:
                before = measure.mark()
                content = packed.extractfile(member)
                assert content is not None
                while content.read(CHUNK_BYTES):
                    pass
                layer.files[member.name] = measure.mark() - before
    while watched.read(CHUNK_BYTES):
        pass
    measure.close()
    return layer


def main(image: str = "tenner:slim") -> None:
    """Print the sizes in MB (1,000,000 bytes)."""
    print(f"{image}\n\n| layer | unpacked MB | gzip MB | zstd MB |\n|---|---|---|---|")
    found: list[Layer] = []
    for layer in layers(image):
        found.append(layer)
        if layer.unpacked > 1_000_000:
            row = (layer.unpacked, layer.gzip, layer.zstd)
            print(f"| {layer.number} | " + " | ".join(f"{size / 1e6:.0f}" for size in row) + " |")
    totals = [sum(getattr(each, name) for each in found) for name in ("unpacked", "gzip", "zstd")]
    print("| all | " + " | ".join(f"{size / 1e6:.0f}" for size in totals) + " |")
    for name, size in zip(("gzip", "zstd"), totals[1:], strict=True):
        print(f"{name}: {size / 1e9:.2f} GB, {size / 1e9 * SECONDS_PER_GB:.0f} s on 1 Gbit/s")
    print("\n| file | gzip MB |\n|---|---|")
    files = {name: size for layer in found for name, size in layer.files.items()}
    for name, size in sorted(files.items(), key=lambda item: -item[1])[:NUM_FILES]:
        print(f"| {name} | {size / 1e6:.0f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
