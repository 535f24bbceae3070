"""Work beside a training has a lower priority."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from tenner.core.command import Command
from tenner.core.priority import NICE, with_low_priority
from tenner.core.run_dir import RunDir
from tenner.runs.upload_queue import UploadPolicy
from tenner.runs.uploader import DestinationUploader, Uploader


class Remote:
    """A destination that notes how far the thread that sends to it stands behind."""

    destination = "file:///somewhere"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def put_set(self, shipment: object) -> None:
        self.seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def cancel(self) -> None:
        pass


def test_sending_stands_behind_and_the_run_itself_does_not(tmp_path: Path) -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    remote, run_dir = Remote(), RunDir(tmp_path / "run").create()
    weights = tmp_path / "a.safetensors"
    weights.write_bytes(b"x")
    destination = DestinationUploader(
        remote,  # pyright: ignore[reportArgumentType]
        run_dir,
        UploadPolicy(sends_notes=False),
        on_event=lambda event: None,
    )
    with Uploader(run_dir=run_dir, destinations=[destination]) as uploader:
        uploader.take_checkpoint(weights, "checkpoints/a.safetensors", 1)
        assert destination.wait(time.monotonic() + 20)
    assert remote.seen == [NICE]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_a_process_beside_the_training_starts_behind_it() -> None:
    own = os.nice(0)
    command = with_low_priority(
        Command(argv=(sys.executable, "-c", "import os; print(os.nice(0))"))
    )
    done = subprocess.run(command.argv, capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(19, own + NICE)
