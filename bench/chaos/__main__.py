"""The command line; the package's docstring describes it."""

import argparse
import sys
from pathlib import Path

import bench.chaos as package
from bench.chaos.history import table
from bench.chaos.runs import chaos


def main() -> int:
    parser = argparse.ArgumentParser(description=(package.__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stand-in", action="store_true", dest="stand_in")
    parser.add_argument("--progress", type=Path, help="file of the histories so far")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run later")
    arguments = parser.parse_args()
    histories = chaos(
        arguments.runs,
        arguments.kills,
        arguments.seed,
        stand_in=arguments.stand_in,
        progress=arguments.progress,
        seconds=arguments.seconds,
    )
    print(table(histories))
    return 0 if all(not history.wrong for history in histories) else 1


if __name__ == "__main__":
    sys.exit(main())
