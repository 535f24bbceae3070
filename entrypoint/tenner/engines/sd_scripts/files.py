"""What sd-scripts leaves on disk, put where the run keeps it.

Each attempt writes into a folder of its own, because names restart with every resume. As soon as
the log shows that a file is whole it is renamed into the run under its absolute name, so that no
attempt overwrites another's. A state is read before: only one that can be resumed from gets the
mark, with the size and hash of each of its files, and replaces an older one.
"""

import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tenner.core.errors import SettingsError
from tenner.core.files import sync_directory, write_json
from tenner.core.messages import msg
from tenner.core.run_dir import STATE_MARK
from tenner.core.safetensors_head import read_safetensors_header

NUM_STATES = 2
NEEDED = ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl")
"""What accelerate writes into a state, apart from `train_state.json` of sd-scripts."""


class UnusableState(Exception):
    """A state that the trainer wrote cannot be resumed from; the message is the reason."""


def adopt_state(written: Path, states: Path, *, step: int, epoch: int) -> Path:
    """Mark the state at `written`, move it to `states`, and drop all but the newest two.

    It appears there marked or not at all; older states go first, for a disk that is almost full.
    Raises UnusableState where it is cut or damaged: then the older states stay what they are.
    Raises OSError.
    """
    if problem := _content_problem(written):
        raise UnusableState(problem)
    files = sorted(each for each in written.iterdir() if each.is_file())
    mark = {
        "engine": "sd-scripts",
        "step": step,
        "epoch": epoch,
        "files": {each.name: each.stat().st_size for each in files},
        "sha256": {each.name: _sha256(each) for each in files},
    }
    adopted = states / f"step-{step:08d}"
    states.mkdir(parents=True, exist_ok=True)
    others = [each for each in sorted(states.glob("step-*")) if each != adopted]
    for each in others[: max(0, len(others) - NUM_STATES + 1)]:
        shutil.rmtree(each, ignore_errors=True)
    write_json(written / STATE_MARK, mark)
    if adopted.exists():
        shutil.rmtree(adopted)
    written.rename(adopted)
    sync_directory(states)
    return adopted


def state_step(state: Path) -> int:
    """The absolute step that `state` was saved after. Raises OSError, ValueError or KeyError."""
    return int(json.loads((state / STATE_MARK).read_text(encoding="utf-8"))["step"])


def state_problem(state: Path) -> str | None:
    """What is wrong with a state, None where it is whole.

    Sizes and hashes are those noted when it was written; states of earlier versions have no hashes.
    """
    try:
        noted = json.loads((state / STATE_MARK).read_text(encoding="utf-8"))
        sizes: dict[str, int] = noted["files"]
        int(noted["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return msg("its {state_mark} cannot be read: {error}", state_mark=STATE_MARK, error=error)
    for name in (*NEEDED, *sizes):
        file = state / name
        if not file.is_file():
            return msg("{name} is missing", name=name)
        if file.stat().st_size != sizes.get(name):
            return msg(
                "{name} has {st_size} bytes, {get} were written",
                name=name,
                st_size=f"{file.stat().st_size:,}",
                get=f"{sizes.get(name, 0):,}",
            )
    return _content_problem(state) or _hash_problem(state, noted.get("sha256", {}))


def _content_problem(state: Path) -> str | None:
    """Why the files of a state cannot be read, None where they can.

    torch's files are zip archives with checksums; the weights' header gives their size.
    """
    for name in NEEDED:
        if not (state / name).is_file():
            return msg("{name} is missing", name=name)
    try:
        read_safetensors_header(state / "model.safetensors")
    except SettingsError:
        return msg("model.safetensors is damaged")
    for file in sorted(state.iterdir()):
        if file.suffix in {".bin", ".pkl"} and not _is_whole_zip(file):
            return msg("{name} is damaged", name=file.name)
    return None


def _is_whole_zip(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as opened:
            return opened.testzip() is None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return False


def _hash_problem(state: Path, hashes: Mapping[str, Any]) -> str | None:
    for name, noted in hashes.items():
        if _sha256(state / name) != noted:
            return msg("{name} is damaged", name=name)
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def adopt_checkpoint(written: Path, target: Path) -> Path:
    """Rename a whole checkpoint to its absolute name. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written.replace(target)
    sync_directory(target.parent)
    return target
