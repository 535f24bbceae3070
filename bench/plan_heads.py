"""What `tenner plan` takes on folders of pictures, beside a bare loop that opens their heads.

python -m bench.plan_heads [--pictures 40 1000] [--rounds 5]

JPEGs of 1024 x 1024 with a caption each; the commands in turns, CPU of all their processes and
wall time, the median of the rounds. Beside other work on the machine the ratios are what to read.

On two cores that other work kept busy (load 4.5), Python 3.11: CPU seconds (ratio to the loop)

                            40 pictures     1,000 pictures
    bare loop               0.04 (1)        0.08 (1)
    tenner --help           0.18 (4.0)      0.20 (2.4)
    tenner plan             0.39 (8.9)      0.59 (7.2)
    tenner plan --gpu all   0.42 (9.6)      0.76 (9.3)
    tenner check            0.66 (14.8)     3.60 (43.8)

While plan decoded, 300 pictures took it 1.54 s of CPU, `--gpu all` 2.97 s, and check 1.47 s.
Wall time then was 0.40 s of plan on 40 pictures, and 0.95 s (at best 0.59 s) on 1,000.
"""

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ENVIRON = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
BARE = """
import sys
from pathlib import Path
from PIL import Image
for path in Path(sys.argv[1]).iterdir():
    if path.suffix == ".jpg":
        with Image.open(path) as image:
            image.size, image.getexif().get(0x0112)
"""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one start, in seconds."""

    wall: float
    cpu: float


def make_pictures(folder: Path, number: int) -> Path:
    """Smooth pictures with some grain, about 150 kB each, no two the same, and their captions."""
    folder.mkdir()
    drawn = random.Random(7)
    for index in range(number):
        small = Image.frombytes("RGB", (24, 24), drawn.randbytes(24 * 24 * 3))
        picture = small.resize((1024, 1024), Image.Resampling.BICUBIC)
        grain = Image.effect_noise((1024, 1024), 24).convert("RGB")
        Image.blend(picture, grain, 0.12).save(folder / f"{index:04d}.jpg", quality=90)
        (folder / f"{index:04d}.txt").write_text(f"sks cat, picture {index}", encoding="utf-8")
    return folder


def start(words: list[str]) -> Cost:
    """One start of a program, to its end."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=True, env=ENVIRON)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall=time.perf_counter() - started, cpu=cpu)


def commands(folder: Path) -> dict[str, list[str]]:
    """What is compared on the pictures of `folder`."""
    cards = ["--base_model", "sd15", "--gpu", "all"]
    tiny = ["--base_model", "tiny"]
    program = ["-m", "tenner"]
    return {
        "a bare loop over heads": ["-c", BARE, str(folder)],
        "tenner --help": [*program, "--help"],
        "tenner plan": [*program, "plan", str(folder), *tiny],
        "tenner plan --gpu all": [*program, "plan", str(folder), *cards],
        "tenner check": [*program, "check", str(folder), *tiny],
    }


def main() -> None:
    """Print a table for each number of pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, nargs="+", default=[40, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for number in options.pictures:
            folder = make_pictures(Path(temporary) / str(number), number)
            found: dict[str, list[Cost]] = {name: [] for name in commands(folder)}
            for _ in range(options.rounds + 1):
                for name, argv in commands(folder).items():
                    found[name].append(start(argv))
            print_table(number, {name: each[1:] for name, each in found.items()})
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def print_table(number: int, found: dict[str, list[Cost]]) -> None:
    bare = statistics.median(each.cpu for each in found["a bare loop over heads"])
    print(f"{number} pictures          CPU s   CPU/bare   wall s (least)")
    for name, costs in found.items():
        cpu = statistics.median(each.cpu for each in costs)
        wall = statistics.median(each.wall for each in costs)
        least = min(each.wall for each in costs)
        print(f"  {name:<24} {cpu:6.2f} {cpu / bare:8.1f} {wall:9.2f} ({least:.2f})")


if __name__ == "__main__":
    main()
