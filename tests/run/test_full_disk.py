"""The disk fills in mid-run: what there is is delivered, the disk is named, and nothing is torn."""

import errno
import json
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import StandIn
from small_disk import fill, small_disk

from tenner.core.disk_errors import disk_failure, is_disk_trouble
from tenner.core.event_log import EventLog, read_event_lines
from tenner.core.events import Phase
from tenner.core.run_dir import RunDir
from tenner.runs.reserve import NOTES_BYTES, release_reserve, reserve

STEPS = 24
WORDS = ("--max_train_steps", str(STEPS), "--save_every_n_steps", "4", "--network_dim", "1")

NUM_DISKS = int(os.environ.get("NUM_DISKS", "8"))


def whole_lines(machine: StandIn) -> None:
    path = machine.run("cat") / "events.jsonl"
    content = path.read_bytes() if path.is_file() else b""
    assert all(isinstance(json.loads(line), dict) for line in content.splitlines())


@pytest.mark.long
@pytest.mark.parametrize("number", range(NUM_DISKS))
def test_a_disk_that_fills_at_any_moment_loses_nothing(tmp_path: Path, number: int) -> None:
    chance = random.Random(f"full disk {number}")
    destination = tmp_path / "stored"
    with small_disk(tmp_path / "disk", 270) as disk:
        machine = StandIn(disk / "pod", STAND_IN_SECONDS="0.08")
        logs_there = number % 3 == 0
        machine.log = machine.log if logs_there else tmp_path / "program.log"
        args = machine.train("cat", *WORDS, "--destinations", f"file://{destination}")
        process, seconds = machine.start(*args), chance.uniform(0.2, 6.0)
        started = time.monotonic()
        while process.poll() is None and time.monotonic() < started + seconds:
            time.sleep(0.01)
        filler = fill(disk)
        code = process.wait(120)
        assert code in (0, 4), machine.output
        assert "Traceback" not in machine.output
        if code == 4 and not logs_there:
            assert str(disk) in machine.output
            assert re.search(r"MB (are )?free|No space left on device", machine.output)
            fixes = ("free disk space", "free space there", "a larger disk")
            assert any(fix in machine.output for fix in fixes)
        states = sorted(path.name for path in (machine.run("cat") / "state").glob("step-*"))
        filler.unlink()
        if code == 4 and states:
            sent = destination.glob(".tenner/cat/state/step-*/complete.json")
            newest = max((path.parent.name[:13] for path in sent), default="")
            at_its_end = (destination / "cat.safetensors").is_file()
            assert at_its_end or newest >= states[-1], f"what was saved is sent: {machine.output}"
        machine.log = tmp_path / "second.log"
        assert machine.finish(*args) == 0, machine.output
        whole_lines(machine)
        assert (destination / "cat.safetensors").is_file()
        attempts = machine.ledger("cat")["attempts"]
        assert sum(attempt["last_step"] - attempt["first_step"] for attempt in attempts) == STEPS
        assert not (machine.run("cat") / ".reserved").exists()


def test_a_full_disk_in_mid_run_is_exit_4_with_what_there_is_delivered(tmp_path: Path) -> None:
    destination = tmp_path / "stored"
    with small_disk(tmp_path / "disk", 270) as disk:
        machine = StandIn(disk / "pod", STAND_IN_SECONDS="0.1")
        machine.log = tmp_path / "program.log"
        args = machine.train("cat", *WORDS, "--destinations", f"file://{destination}")
        process = machine.start(*args)
        while process.poll() is None and not machine.events("cat", "state"):
            time.sleep(0.01)
        assert (machine.run("cat") / ".reserved").stat().st_size > NOTES_BYTES
        fill(disk)
        assert process.wait(120) == 4, machine.output
        assert "the disk takes no more: " in machine.output
        assert str(disk) in machine.output
        assert "MB are free" in machine.output
        assert "Traceback" not in machine.output
        assert list(destination.glob("checkpoints/cat-step*.safetensors"))
        assert list(destination.glob(".tenner/cat/state/step-*/complete.json"))
        ends = machine.events("cat", "failed")
        assert ends[-1]["text"].startswith(("the disk takes no more", "training failed: the disk"))
        whole_lines(machine)


def broken_write(log: EventLog, monkeypatch: pytest.MonkeyPatch, taken: Callable[[], int]) -> None:
    """From now on the disk takes `taken()` bytes of a line, and is full then."""
    file = log._file

    class Disk:
        def fileno(self) -> int:
            return file.fileno()

        def write(self, line: bytes) -> int:
            free = taken()
            if free >= len(line):
                return file.write(line) or 0
            file.write(line[:free])
            if free % 2:
                return free  # a short write, as the kernel does it at the last free block
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None:
            file.close()

    monkeypatch.setattr(log, "_file", Disk())


@given(rooms=st.lists(st.integers(0, 200), max_size=30))
def test_no_line_is_torn_wherever_the_disk_is_full_and_none_is_lost_once_there_is_space(
    rooms: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    with pytest.MonkeyPatch.context() as monkeypatch, EventLog(path) as log:
        log.append(Phase(name="before"))
        left = [*rooms]
        broken_write(log, monkeypatch, lambda: left.pop(0) if left else 10_000)
        for number in range(len(rooms)):
            log.append(Phase(name=f"phase {number}"))
            assert all(line["event"] for line in map(json.loads, path.read_bytes().splitlines()))
        left.clear()
        log.append(Phase(name="after"))
    names = [line["name"] for line in read_event_lines(path)]
    assert names == ["before", *(f"phase {number}" for number in range(len(rooms))), "after"]


@pytest.mark.parametrize(
    "torn",
    [b'{"event": "st', b'{"event": "step"}', b"\0" * 512, b'{"a": {"b": 1}\n', b'{"x": 1\n{"y"'],
)
@pytest.mark.parametrize("after", [b"", b'{"event": "phase", "name": "later"}\n'])
def test_a_torn_line_is_cut_off_at_the_next_start(
    tmp_path: Path, torn: bytes, after: bytes
) -> None:
    path, good = tmp_path / "events.jsonl", b'{"event": "phase", "name": "first"}\n'
    path.write_bytes(good + torn + (b"\n" if after else b"") + after)
    with EventLog(path) as log:
        log.append(Phase(name="now"))
    lines = path.read_bytes().splitlines()
    names = [json.loads(line).get("name") for line in lines]
    assert names[0] == "first"
    assert names[-1] == "now"
    assert ("later" in names) == bool(after)


def test_space_is_reserved_on_the_disk_and_released(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run").create()
    assert reserve(run_dir, 5 << 20)
    (file,) = [path for path in run_dir.path.iterdir() if path.is_file()]
    assert file.stat().st_blocks * 512 >= 5 << 20
    release_reserve(run_dir)
    assert not file.exists()
    release_reserve(run_dir)


def test_errors_of_a_full_disk_are_recognised(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
        error = OSError(number, os.strerror(number), str(tmp_path / "x"))
        assert is_disk_trouble(error)
        text = disk_failure(error, tmp_path)
        assert str(tmp_path / "x") in text.text
        assert "MB are free" in text.text
    assert not is_disk_trouble(FileNotFoundError(2, "x"))
    assert not is_disk_trouble(RuntimeError("x"))
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError) as caught:
        full.write(b"x")
    assert is_disk_trouble(caught.value)
