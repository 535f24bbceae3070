"""Times a whole check against a bare parallel full decode of the same JPEGs with Pillow.

Run: python bench/dataset_check.py [NUM_IMAGES, default 1000] [SIDE, default 2048]
Prints of paired rounds both wall times and both CPU times with their ratios (target 1.3; on a busy
machine the CPU's is the steadier one), and the peak memory of the workers and of the parent.

The pictures are noise of natural (1/f) spectrum in three channels at JPEG quality 90, about two
bits a pixel as photos have. Each is another one: forty tiles are laid side by side anew.
"""

import os
import platform
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageChops

from tenner.dataset import DatasetRequest
from tenner.dataset.check import check
from tenner.dataset.workers import num_cores

NUM_TILES = 40


def natural_noise(side: int) -> Image.Image:
    """Octaves of noise, each twice as large and 1.6 times as strong as the one before."""
    image = Image.new("L", (side, side), 128)
    for octave in range(8):
        small = max(side >> octave, 2)
        layer = Image.effect_noise((small, small), 10 * 1.6**octave)
        layer = layer.resize((side, side), Image.Resampling.BICUBIC)
        image = ImageChops.add(image, layer, scale=1, offset=-128)
    return image


def make_set(folder: Path, count: int, side: int) -> list[Path]:
    """`count` different JPEGs of four tiles each, with captions."""
    folder.mkdir()
    chance = random.Random(0)
    half = side // 2
    tiles = [Image.merge("RGB", [natural_noise(half) for _ in range(3)]) for _ in range(NUM_TILES)]
    paths: list[Path] = []
    for number in range(count):
        picture = Image.new("RGB", (side, side))
        for index, tile in enumerate(chance.sample(tiles, 4)):
            turned = tile.rotate(90 * chance.randrange(4))
            picture.paste(turned, (index % 2 * half, index // 2 * half))
        path = folder / f"{number:05d}.jpg"
        picture.save(path, quality=90)
        path.with_suffix(".txt").write_text(f"a picture of noise, number {number}")
        paths.append(path)
    return paths


def decode(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall time, and of the CPUs by this process and its children."""
    before, start = os.times(), time.perf_counter()
    work()
    wall, after = time.perf_counter() - start, os.times()
    return wall, sum(after[:4]) - sum(before[:4])


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    side = int(sys.argv[2]) if len(sys.argv) > 2 else 2048
    print(f"{platform.machine()}, {num_cores()} cores, Pillow {Image.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        paths = make_set(Path(temporary) / "10_set", count, side)
        weight = sum(path.stat().st_size for path in paths)
        print(f"{count} JPEGs of {side} px, {8 * weight / count / side**2:.2f} bits a pixel")

        def bare() -> None:
            with ThreadPoolExecutor(num_cores()) as pool:
                list(pool.map(decode, paths))

        for _ in range(3):
            wall, cpu = timed(bare)
            whole, whole_cpu = timed(
                lambda: check(DatasetRequest(source=temporary, resolution=(512, 512)))
            )
            print(
                f"decode {wall:.2f} s, check {whole:.2f} s, ratio {whole / wall:.2f};"
                f" CPU {cpu:.2f} s and {whole_cpu:.2f} s, ratio {whole_cpu / cpu:.2f}"
            )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory: largest worker {peak:.0f} MB, this process {own:.0f} MB")


if __name__ == "__main__":
    main()
