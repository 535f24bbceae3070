"""What sd-scripts leaves on disk, put where the run keeps it.

Each life writes into a folder of its own, because names restart with every resume. As soon as the
log shows that a file is whole it is renamed into the run under its absolute name, so that no life
overwrites another's, and states get the mark that tells a whole one from a cut one.
"""

import json
import shutil
import zipfile
from pathlib import Path

from tenner.core.files import sync_directory, write_json

STATE_MARK = "state.json"
KEPT_STATES = 2
NEEDED = ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl")
"""What accelerate writes into a state, apart from `train_state.json` of sd-scripts."""


def adopt_state(written: Path, states: Path, *, step: int, epoch: int) -> Path:
    """Move the whole state at `written` to `states`, mark it, and drop all but the newest two.

    Raises OSError.
    """
    sizes = {each.name: each.stat().st_size for each in written.iterdir() if each.is_file()}
    kept = states / f"step-{step:08d}"
    states.mkdir(parents=True, exist_ok=True)
    if kept.exists():
        shutil.rmtree(kept)
    written.rename(kept)
    mark = {"engine": "sd-scripts", "step": step, "epoch": epoch, "files": sizes}
    write_json(kept / STATE_MARK, mark)
    sync_directory(states)
    older = sorted(states.glob("step-*"))[:-KEPT_STATES]
    for each in older:
        shutil.rmtree(each, ignore_errors=True)
    return kept


def state_step(state: Path) -> int:
    """The absolute step that `state` was saved after. Raises OSError, ValueError or KeyError."""
    return int(json.loads((state / STATE_MARK).read_text(encoding="utf-8"))["step"])


def state_problem(state: Path) -> str | None:
    """What is wrong with a state, None where it is whole.

    Sizes are those noted when it was written; torch's files are zip archives, whose directory
    stands at their end and is read.
    """
    try:
        noted = json.loads((state / STATE_MARK).read_text(encoding="utf-8"))
        sizes: dict[str, int] = noted["files"]
        int(noted["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {STATE_MARK} cannot be read: {error}"
    for name in (*NEEDED, *sizes):
        file = state / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != sizes.get(name):
            return f"{name} has {file.stat().st_size:,} bytes, {sizes.get(name, 0):,} were written"
        if name.endswith(".bin") and not zipfile.is_zipfile(file):
            return f"{name} is damaged"
    return None


def adopt_checkpoint(written: Path, kept: Path) -> Path:
    """Rename a whole checkpoint to its absolute name. Raises OSError."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    written.replace(kept)
    sync_directory(kept.parent)
    return kept
