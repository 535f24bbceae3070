"""What killed processes left is removed: ours alone, and only where nobody writes it any more."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from program import Machine

from tenner.core import temporary_files
from tenner.core.temporary_files import (
    OTHERS_SECONDS,
    part_of,
    remove_abandoned_folders,
    remove_abandoned_parts,
    remove_every_part,
    temporary_folder,
)

KILLED = (
    "import os, signal, sys; from pathlib import Path;"
    "from tenner.core.temporary_files import part_of, temporary_folder;"
    "part = part_of(Path(sys.argv[1])); part.write_bytes(b'x');"
    "folder = temporary_folder('set'); print(part); print(folder.name, flush=True);"
    "os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] == 'killed' else sys.stdin.read()"
)


def writer(target: Path, how: str, temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(target), how],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_only_what_a_dead_process_was_writing_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    target = tmp_path / "cat.safetensors"
    dead, living = (writer(target, how, tmp_path) for how in ("killed", "living"))
    assert dead.stdout is not None
    assert living.stdout is not None
    assert dead.wait(30) == -signal.SIGKILL
    theirs = [Path(line.strip()) for line in dead.stdout]
    others = [Path(living.stdout.readline().strip()) for _ in range(2)]
    mine = part_of(target)
    mine.write_bytes(b"x")
    foreign = tmp_path / ".cat.safetensors.part"  # no owner: somebody else's, or a cut download
    foreign.write_bytes(b"x")
    with temporary_folder("set") as folder:
        assert all(path.exists() for path in (*theirs, *others))
        assert remove_abandoned_parts(tmp_path) == theirs[:1]
        assert remove_abandoned_folders() == theirs[1:]
        assert all(path.exists() for path in (*others, mine, foreign, Path(folder)))
    living.kill()
    living.wait()
    assert remove_abandoned_parts(tmp_path) == others[:1]
    assert remove_every_part(tmp_path) == [foreign]
    assert mine.exists()
    for stream in (dead.stdin, dead.stdout, living.stdin, living.stdout):
        assert stream is not None
        stream.close()


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path: Path) -> None:
    """The process is alive, but it started at another time than the one that wrote."""
    part = part_of(tmp_path / "cat")
    start = temporary_files._start_of(os.getpid())
    reused = part.with_name(part.name.replace(f"-{start}-", f"-{start - 1}-"))
    reused.write_bytes(b"x")
    part.write_bytes(b"x")
    assert remove_abandoned_parts(tmp_path) == [reused]


def test_what_another_machine_wrote_goes_when_it_has_long_not_changed(tmp_path: Path) -> None:
    part = part_of(tmp_path / "cat")
    theirs = part.with_name(part.name.replace(temporary_files._machine(), "0" * 8))
    theirs.write_bytes(b"x")
    assert remove_abandoned_parts(tmp_path) == []
    old = time.time() - OTHERS_SECONDS - 1
    os.utime(theirs, (old, old))
    assert remove_abandoned_parts(tmp_path) == [theirs]


def test_a_long_name_still_fits_the_file_system(tmp_path: Path) -> None:
    target = tmp_path / ("й" * 120)
    part = part_of(target)
    part.write_bytes(b"x")
    part.rename(target)


@pytest.mark.long
def test_a_run_leaves_nothing_behind_wherever_it_was_killed(tmp_path: Path) -> None:
    """Killed while it sends to a slow folder, it leaves parts, which its next start removes."""
    destination, temporary = tmp_path / "stored", tmp_path / "tmp"
    temporary.mkdir()
    machine = Machine(tmp_path / "pod", TMPDIR=str(temporary))
    args = machine.train("star", "--max_train_steps", "30", "--save_every_n_steps", "3")
    args = (*args, "--destinations", str(destination))

    def left() -> list[Path]:
        parts = [*destination.rglob("*.part"), *machine.folder.rglob("*.part")]
        return [*parts, *temporary.glob("tenner-*")]

    for number in range(4):
        seen = number + 1

        def is_writing(seen: int = seen) -> bool:
            return len(machine.events("star", "state")) > seen and bool(left())

        machine.cut(args, is_writing, signal.SIGKILL)
    planted = destination / "checkpoints"
    planted.mkdir(parents=True, exist_ok=True)
    dead = writer(planted / "star-step00000003.safetensors", "killed", temporary)
    dead.communicate(timeout=30)
    assert left()
    assert machine.finish(*args) == 0, machine.output
    assert left() == []
    assert not (machine.run("star") / "outbox").exists()
    shutil.rmtree(destination)
