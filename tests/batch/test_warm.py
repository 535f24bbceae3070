"""A warm worker looks from outside like a process of its own, whatever becomes of it."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenner.core.command import Command
from tenner.warm import start as warm
from tenner.warm.client import MODULE
from tenner.warm.start import WarmTrainer

WORK = "tenner.sample.draw"

# Stands in for the worker's module: it serves as the real one does, with work that needs no torch.
STAND_IN = """
import os, signal, sys, time
from unittest.mock import MagicMock

for name in ("torch", "tenner.engines.native.train", "tenner.engines.native.cache"):
    sys.modules[name] = MagicMock()
for name in ("tenner.sample.draw", "tenner.sample.cache"):
    sys.modules[name] = MagicMock()
sys.modules["torch"].cuda.is_available.return_value = False
from tenner.warm import worker

def work(arguments):
    print("pid", os.getpid(), flush=True)
    os.write(2, b"from below\\n")
    what = arguments[0]
    if what == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        print("waiting", flush=True)
        time.sleep(60)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        raise OSError("broken")
    return int(what)

worker.Worker._draw = lambda self, arguments: work(arguments)
worker.main(sys.argv[1:])
"""


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmTrainer]:
    (tmp_path / "stand_in_worker.py").write_text(STAND_IN)
    monkeypatch.setattr(warm, "WORKER", "stand_in_worker")
    with WarmTrainer(log=tmp_path / "worker.log") as found:
        yield found
    if not (tmp_path / "worker.log").exists():
        return
    assert "Traceback" not in (tmp_path / "worker.log").read_text()


def start(trainer: WarmTrainer, tmp_path: Path, what: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = trainer.launch(Command(argv=(sys.executable, "-m", WORK, what)), environ)
    return subprocess.Popen(
        command.argv,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, int]:
    output, _ = process.communicate(timeout=60)
    return output, process.returncode


def test_work_after_work_is_done_by_one_process_until_one_fails(
    trainer: WarmTrainer, tmp_path: Path
) -> None:
    first, second, third, fourth = (
        ended(start(trainer, tmp_path, what)) for what in ("0", "raise", "0", "7")
    )
    assert first[0] == second[0][: len(first[0])]
    assert "from below" in first[0]
    assert (first[1], second[1], third[1], fourth[1]) == (0, 1, 0, 7)
    assert "OSError: broken" in second[0]
    assert third[0] != first[0], "after a failure the process is a new one"


def test_it_is_stopped_and_killed_as_a_process_is(trainer: WarmTrainer, tmp_path: Path) -> None:
    waits = start(trainer, tmp_path, "wait")
    assert waits.stdout is not None
    while waits.stdout.readline() != "waiting\n":
        pass
    os.killpg(waits.pid, signal.SIGTERM)
    assert ended(waits)[1] == 143
    assert ended(start(trainer, tmp_path, "die"))[1] == -signal.SIGKILL


def test_who_is_killed_takes_the_work_along(trainer: WarmTrainer, tmp_path: Path) -> None:
    waits = start(trainer, tmp_path, "wait")
    assert waits.stdout is not None
    worker = int(waits.stdout.readline().split()[1])
    there = os.pidfd_open(worker)
    os.killpg(waits.pid, signal.SIGKILL)
    assert select.select([there], [], [], 10)[0], "it runs on"
    os.close(there)
    waits.communicate()
    assert ended(start(trainer, tmp_path, "0"))[1] == 0


def test_work_beside_work_is_a_process_of_its_own(trainer: WarmTrainer, tmp_path: Path) -> None:
    waits = start(trainer, tmp_path, "wait")
    assert waits.stdout is not None
    waits.stdout.readline()
    command = Command(argv=(sys.executable, "-m", WORK, "beside"))
    assert trainer.launch(command, {}) == command
    os.killpg(waits.pid, signal.SIGKILL)
    waits.communicate()


def test_other_programs_are_left_alone(trainer: WarmTrainer) -> None:
    command = Command(argv=("accelerate", "launch", "train_network.py"))
    assert trainer.launch(command, {}) == command


def test_a_request_without_a_worker_does_the_work_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", MODULE, str(tmp_path / "none.sock"), "platform"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Linux" in done.stdout
