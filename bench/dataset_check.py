"""Times a whole check against a bare parallel full decode of the same JPEGs with Pillow.

Run: python bench/dataset_check.py [NUM_IMAGES, default 1000] [SIDE, default 2048]
Prints both times of paired rounds, their ratio (target 1.3) and the peak memory of the workers.
"""

import os
import platform
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageFilter

from tenner.dataset import DatasetRequest
from tenner.dataset.check import check
from tenner.dataset.workers import num_cores


def make_set(folder: Path, count: int, side: int) -> list[Path]:
    """JPEGs of smooth noise at quality 90. Twenty are drawn, the rest are turned copies."""
    folder.mkdir()
    bases = [
        Image.merge("RGB", [Image.effect_noise((side, side), 60)] * 3).filter(
            ImageFilter.GaussianBlur(1 + seed % 3)
        )
        for seed in range(min(count, 4))
    ]
    paths: list[Path] = []
    for number in range(count):
        path = folder / f"{number:05d}.jpg"
        base = bases[number % len(bases)]
        base.rotate(90 * (number // 4 % 4)).save(path, quality=90)
        paths.append(path)
    return paths


def decode(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    side = int(sys.argv[2]) if len(sys.argv) > 2 else 2048
    print(f"{platform.machine()}, {num_cores()} cores, Pillow {Image.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        paths = make_set(Path(temporary) / "10_set", count, side)
        for _ in range(3):
            start = time.perf_counter()
            with ThreadPoolExecutor(num_cores()) as pool:
                list(pool.map(decode, paths))
            bare = time.perf_counter() - start
            start = time.perf_counter()
            check(DatasetRequest(source=temporary, resolution=(512, 512)))
            whole = time.perf_counter() - start
            print(f"decode {bare:.2f} s, check {whole:.2f} s, ratio {whole / bare:.2f}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory: largest worker {peak:.0f} MB, this process {own:.0f} MB ({os.getpid()})")


if __name__ == "__main__":
    main()
