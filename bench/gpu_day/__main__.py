"""The command line; see the package's own text."""

import argparse
import os
import sys
import time
from pathlib import Path

import bench.gpu_day as package
from bench.gpu_day.packages import fill_folder, install_missing

NUM_PARTS = 6


def main(words: list[str]) -> int:
    """Run the parts, or one of the other commands.

    What needs the program or its packages is imported after they were put on the path: a bare
    machine has neither.
    """
    sys.path[:0] = [path for path in _source_paths() if path not in sys.path]
    if words[:1] == ["report"]:
        from bench.gpu_day.report import write_report

        print(write_report(Path(words[1])))
        return 0
    if words[:1] == ["wheels"]:
        return _wheels(words[1:])
    parser = argparse.ArgumentParser(description=(package.__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sd-scripts", type=Path)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--part", type=int, choices=range(1, NUM_PARTS + 1), action="append")
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args(words)
    out: Path = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    packages = out / "packages"
    install_missing(options.wheels.absolute() if options.wheels else None, packages)
    from bench.gpu_day.parts import PARTS, Day
    from bench.gpu_day.report import write_report

    day = Day(
        out=out,
        sd_scripts=options.sd_scripts.absolute() if options.sd_scripts else None,
        is_rehearsal=options.rehearse,
        python_path=os.pathsep.join([*_source_paths(), str(packages)]),
    )
    failures = 0
    for number in options.part or sorted(PARTS):
        started = time.monotonic()
        print(f"part {number}: {PARTS[number].__doc__}", flush=True)
        failures += day.run_part(number)
        print(f"part {number} took {time.monotonic() - started:.0f} s", flush=True)
    write_report(out)
    print(f"{len(day.rows())} rows in {out}, {failures} of them failed")
    return 1 if failures else 0


def _source_paths() -> list[str]:
    root = Path(__file__).resolve().parents[2]
    return [str(root), str(root / "entrypoint")]


def _wheels(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_day wheels")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    parser.add_argument("--cuda", default="121", help="the CUDA of torch there: 121, 128, 130")
    options = parser.parse_args(words)
    num_bytes = fill_folder(options.folder, python=options.python, cuda=options.cuda)
    print(f"{num_bytes / 2**20:.1f} MiB in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
