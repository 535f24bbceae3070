"""What the benchmarks against the real sd-scripts take, and what they need."""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A job on a full-size Stable Diffusion 1.5: its base, images, steps, and how often."""

    base: Path
    dataset: Path
    steps: int
    rounds: int


def read_arguments(description: str, *, steps: int, rounds: int) -> Arguments:
    """The command line. Ends the program where sd-scripts is not named."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rounds", type=int, default=rounds)
    arguments = parser.parse_args()
    if "SD_SCRIPTS_DIR" not in os.environ or "TENNER_TRAINER_PYTHON" not in os.environ:
        sys.exit("set SD_SCRIPTS_DIR and TENNER_TRAINER_PYTHON")
    return Arguments(
        base=arguments.base,
        dataset=arguments.dataset,
        steps=arguments.steps,
        rounds=arguments.rounds,
    )
