"""The states in a run's directory: which are complete, their steps, and taking one out of use."""

from collections.abc import Sequence
from pathlib import Path

from tenner.core.run_dir import STATE_MARK, RunDir


def states(run_dir: RunDir) -> list[Path]:
    """The complete states in the run's directory, newest first."""
    found = [each for each in run_dir.state.iterdir() if (each / STATE_MARK).is_file()]
    whole = [each for each in found if each.name.startswith("step-")]
    return sorted(whole, key=lambda each: each.name, reverse=True)


def step_of(state: Path) -> int:
    """The absolute step of a state in the run's directory."""
    return int(state.name.rpartition("-")[2])


def newest_step(run_dir: RunDir) -> int:
    """The step of the newest complete state here; 0 where there is none."""
    return max(map(step_of, states(run_dir)), default=0)


def rename_out_of_use(found: Sequence[Path], why: str) -> None:
    """Rename states or weights so that nothing resumes from them. Raises OSError."""
    for each in found:
        each.rename(each.with_name(f"{why}-{each.name}"))
