"""How fast `tenner --help` and `tenner plan` answer: the median of several new processes.

python -m bench.start

Modules are compiled, as pip leaves them, whatever PYTHONDONTWRITEBYTECODE is here. Plan
opens the heads of the images in its own process; `bench.plan_heads` has numbers for many of them.
"""

import os
import platform
import statistics
import subprocess
import sys
import time

from tenner.base.tiny import concept_dir

RUNS = 9
ENVIRON = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(words: list[str]) -> float:
    """Wall time of one start, in seconds."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "tenner", *words], capture_output=True, check=True, env=ENVIRON
    )
    return time.perf_counter() - started


def main() -> None:
    """Print the medians with the machine."""
    job = [str(concept_dir()), "--base_model", "tiny", "--min_bucket_reso", "64"]
    print(f"{platform.machine()}, Python {platform.python_version()}, {RUNS} starts each")
    for words in (["--help"], ["train", "--help"], ["plan", *job]):
        seconds(words)
        found = [seconds(words) for _ in range(RUNS)]
        print(
            f"tenner {words[0]:<7} median {statistics.median(found):.2f} s (least {min(found):.2f})"
        )
    print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
