"""Processes that decode pictures of strangers: what they may know, and what a killed one costs."""

import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tenner.dataset import workers
from tenner.dataset.workers import WorkerPool, path_field


def test_no_decoder_knows_a_secret_and_one_that_is_killed_costs_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the one in its place, which a pool of `multiprocessing` (also pebble's) does
    not promise: its processes have the environment of the program."""
    monkeypatch.setenv("HF_TOKEN", "hf_loopback_secret")
    started: list[subprocess.Popen[str]] = []
    launch = workers._launch

    def launch_and_note() -> subprocess.Popen[str]:
        started.append(launch())
        return started[-1]

    monkeypatch.setattr(workers, "_launch", launch_and_note)
    picture = tmp_path / "a.png"
    Image.new("RGB", (600, 600)).save(picture)
    task = {"do": "inspect", "path": path_field(picture), "training_area": 512 * 512}
    with WorkerPool(1) as pool:
        (good,) = pool.run([task])
        started[0].kill()
        started[0].wait()
        killed, again = pool.run([task, task])
        environ = Path(f"/proc/{started[1].pid}/environ").read_bytes()
    assert good == again
    assert again["width"] == 600
    assert killed == {"unreadable": "damaged: the decoder crashes on it"}
    assert len(started) == 2
    assert b"PATH=" in environ
    assert b"hf_loopback_secret" not in environ
