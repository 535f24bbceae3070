"""How long threads of a parallel loop should spin before they sleep, with other work on the cores.

    python -m bench.thread_waiting [--seconds 4]

GNU's OpenMP, which PyTorch computes with on a CPU, has threads that wait spin for long. Where
another program needs the core, all wait for a thread that has none. A stack of small convolutions
is run by as many threads as there are cores, beside no, one and two busy programs, in turn with the
default, the count that tenner gives its trainers (`engines.THREAD_WAITING`), and no spinning.

On two cores, forward passes a second in these three ways: alone 51, 50 and 43; beside one busy
program 13, 24 and 30; beside two 1.8, 11 and 17.
"""

import argparse
import os
import platform
import subprocess
import sys
import time

from tenner.core.command import THREAD_WAITING

WAYS: dict[str, dict[str, str]] = {
    "default": {},
    "tenner's": dict(THREAD_WAITING),
    "no spinning": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def main() -> None:
    """Print a line for each number of busy programs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(passes_per_second(arguments.seconds))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, forward passes a second")
    for num_busy in range(3):
        busy = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_busy)
        ]
        try:
            found = {name: measure(way, arguments.seconds) for name, way in WAYS.items()}
        finally:
            for each in busy:
                each.kill()
                each.wait()
        print(f"beside {num_busy}:", ", ".join(f"{name} {n:.1f}" for name, n in found.items()))


def measure(way: dict[str, str], seconds: float) -> float:
    """Passes a second of a process of its own: the library reads its variables at its start."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))} | way
    argv = [sys.executable, "-m", "bench.thread_waiting", "--one", "--seconds", str(seconds)]
    done = subprocess.run(argv, env=environ, check=True, capture_output=True, text=True)
    return float(done.stdout)


def passes_per_second(seconds: float) -> float:
    """Twenty 3x3 convolutions of 64 channels, batch 8 of 16x16."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    layers = [torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(20)]
    model, x = torch.nn.Sequential(*layers), torch.randn(8, 64, 16, 16)
    with torch.no_grad():
        for _ in range(3):
            model(x)
        start, passes = time.monotonic(), 0
        while time.monotonic() - start < seconds:
            model(x)
            passes += 1
    return passes / (time.monotonic() - start)


if __name__ == "__main__":
    main()
