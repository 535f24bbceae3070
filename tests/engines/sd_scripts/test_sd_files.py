"""States and checkpoints are put in their place whole, and a cut state is seen."""

import io
import zipfile
from pathlib import Path

import pytest

from tenner.engines.sd_scripts.files import (
    NEEDED,
    STATE_MARK,
    adopt_checkpoint,
    adopt_state,
    state_problem,
    state_step,
)


def written_state(folder: Path) -> Path:
    """A state as accelerate leaves one: torch's `.bin` files are zip archives."""
    folder.mkdir(parents=True)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("data.pkl", b"x" * 2000)
    for name in NEEDED:
        (folder / name).write_bytes(archive.getvalue() if name.endswith(".bin") else b"weights")
    (folder / "train_state.json").write_text('{"current_epoch": 1, "current_step": 4}')
    return folder


def adopt(tmp_path: Path, step: int) -> Path:
    written = written_state(tmp_path / "out" / f"lora-step{step:08d}-state")
    return adopt_state(written, tmp_path / "state", step=step, epoch=1)


def test_a_state_is_moved_marked_and_read_back(tmp_path: Path) -> None:
    kept = adopt(tmp_path, 400)
    assert kept == tmp_path / "state" / "step-00000400"
    assert state_step(kept) == 400
    assert state_problem(kept) is None
    assert not any((tmp_path / "out").iterdir())


def test_the_newest_two_states_are_kept(tmp_path: Path) -> None:
    for step in (4, 8, 12, 100):
        adopt(tmp_path, step)
    names = sorted(each.name for each in (tmp_path / "state").iterdir())
    assert names == ["step-00000012", "step-00000100"]


@pytest.mark.parametrize("name", [*NEEDED, STATE_MARK])
@pytest.mark.parametrize("how", ["missing", "cut", "empty"])
def test_a_state_that_is_not_whole_is_told(tmp_path: Path, name: str, how: str) -> None:
    kept = adopt(tmp_path, 4)
    file = kept / name
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 5 if how == "cut" else 0])
    assert name in str(state_problem(kept))


def test_a_state_of_the_right_size_whose_end_is_lost_is_told(tmp_path: Path) -> None:
    kept = adopt(tmp_path, 4)
    file = kept / "optimizer.bin"
    file.write_bytes(file.read_bytes()[:1000].ljust(file.stat().st_size, b"\0"))
    assert state_problem(kept) == "optimizer.bin is damaged"


def test_a_checkpoint_gets_its_absolute_name(tmp_path: Path) -> None:
    written = tmp_path / "out" / "lora-step00000004.safetensors"
    written.parent.mkdir()
    written.write_bytes(b"weights")
    kept = adopt_checkpoint(written, tmp_path / "checkpoints" / "lora-step00000008.safetensors")
    assert kept.read_bytes() == b"weights"
    assert not written.exists()
