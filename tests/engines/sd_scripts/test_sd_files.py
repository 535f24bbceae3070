"""States and checkpoints are put in their place whole, and a cut state is seen."""

import io
import json
import struct
import zipfile
from pathlib import Path

import pytest

from tenner.core.run_dir import STATE_MARK
from tenner.engines.sd_scripts.files import (
    NEEDED,
    UnusableState,
    adopt_checkpoint,
    adopt_state,
    state_problem,
    state_step,
)


def written_state(folder: Path) -> Path:
    """A state as accelerate leaves one: torch's files are zip archives."""
    folder.mkdir(parents=True)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("data.pkl", b"x" * 2000)
    head = json.dumps({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    weights = struct.pack("<Q", len(head)) + head + struct.pack("<9f", *range(9))
    for name in NEEDED:
        (folder / name).write_bytes(
            weights if name.endswith(".safetensors") else archive.getvalue()
        )
    (folder / "train_state.json").write_text('{"current_epoch": 1, "current_step": 4}')
    return folder


def adopt(tmp_path: Path, step: int) -> Path:
    written = written_state(tmp_path / "out" / f"lora-step{step:08d}-state")
    return adopt_state(written, tmp_path / "state", step=step, epoch=1)


def test_a_state_is_moved_marked_and_read_back(tmp_path: Path) -> None:
    saved = adopt(tmp_path, 400)
    assert saved == tmp_path / "state" / "step-00000400"
    assert state_step(saved) == 400
    assert state_problem(saved) is None
    assert not any((tmp_path / "out").iterdir())


def test_the_newest_two_states_are_kept(tmp_path: Path) -> None:
    for step in (4, 8, 12, 100):
        adopt(tmp_path, step)
    names = sorted(each.name for each in (tmp_path / "state").iterdir())
    assert names == ["step-00000012", "step-00000100"]


@pytest.mark.parametrize("name", [*NEEDED, STATE_MARK])
@pytest.mark.parametrize("how", ["missing", "cut", "empty"])
def test_a_state_that_is_not_whole_is_reported(tmp_path: Path, name: str, how: str) -> None:
    saved = adopt(tmp_path, 4)
    file = saved / name
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 5 if how == "cut" else 0])
    assert name in str(state_problem(saved))


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("at", [30, -40])
def test_a_state_of_the_right_size_with_other_bytes_is_reported(
    tmp_path: Path, name: str, at: int
) -> None:
    saved = adopt(tmp_path, 4)
    content = bytearray((saved / name).read_bytes())
    content[at] ^= 0xFF
    (saved / name).write_bytes(content)
    assert state_problem(saved) == f"{name} is damaged"


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("how", ["missing", "cut", "empty", "zeros"])
def test_a_state_that_was_written_badly_replaces_no_older_one(
    tmp_path: Path, name: str, how: str
) -> None:
    """As a full or failing disk leaves it: the trainer says that it saved, and it did not."""
    older = [adopt(tmp_path, step) for step in (4, 8)]
    written = written_state(tmp_path / "out" / "lora-step00000012-state")
    file, content = written / name, (written / name).read_bytes()
    half = content[: len(content) // 2]
    spoilt = {"cut": half, "empty": b"", "zeros": half.ljust(len(content), b"\0")}
    file.unlink() if how == "missing" else file.write_bytes(spoilt[how])
    if name == "model.safetensors" and how == "zeros":
        file.write_bytes(bytes(len(content)))  # behind the head any number is one
    with pytest.raises(UnusableState, match=name):
        adopt_state(written, tmp_path / "state", step=12, epoch=1)
    assert sorted((tmp_path / "state").iterdir()) == older
    assert [state_problem(each) for each in older] == [None, None]


def test_a_state_without_hashes_as_earlier_versions_wrote_it_is_taken(tmp_path: Path) -> None:
    saved = adopt(tmp_path, 4)
    noted = json.loads((saved / STATE_MARK).read_text())
    del noted["sha256"]
    (saved / STATE_MARK).write_text(json.dumps(noted))
    assert state_problem(saved) is None


def test_a_checkpoint_gets_its_absolute_name(tmp_path: Path) -> None:
    written = tmp_path / "out" / "lora-step00000004.safetensors"
    written.parent.mkdir()
    written.write_bytes(b"weights")
    saved = adopt_checkpoint(written, tmp_path / "checkpoints" / "lora-step00000008.safetensors")
    assert saved.read_bytes() == b"weights"
    assert not written.exists()
