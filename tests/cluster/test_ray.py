"""Jobs given to Ray, and what a job's process does when its machine goes away."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tenner.base.tiny import concept_dir
from tenner.queue.cluster.order import Order, descendants, travelling
from tenner.settings import load_request

SECRET = "loopback-word-that-nobody-may-see"
JOB: dict[str, Any] = {
    "base_model": "tiny",
    "dataset": str(concept_dir()),
    "resolution": "64",
    "min_bucket_reso": "64",
    "batch_size": "4",
    "network_dim": "2",
    "optimizer_type": "AdamW",
    "no_samples": "true",
}


def environment(**extra: str) -> dict[str, str]:
    environ = {
        key: value for key, value in os.environ.items() if not key.startswith(("TENNER_", "SD_"))
    }
    return {**environ, "OMP_NUM_THREADS": "1", **extra}


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its sockets and logs: a short path, since a socket's may not be long."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
def test_jobs_go_to_this_machines_cards_and_keys_are_in_no_log(
    tmp_path: Path, ray_folder: Path
) -> None:
    text = "\n".join(f'{key} = "{value}"' for key, value in JOB.items())
    jobs = '[[jobs]]\noutput_name = "good"\n[[jobs]]\noutput_name = "bad"\ndataset = "nowhere"\n'
    (tmp_path / "jobs.toml").write_text(f"{text}\nmax_train_steps = 2\n{jobs}")
    process = subprocess.Popen(
        [sys.executable, "-m", "tenner", "batch", "jobs.toml", "--ray"],
        cwd=tmp_path,
        env=environment(RAY_TMPDIR=str(ray_folder), HF_TOKEN=SECRET, RAY_USAGE_STATS_ENABLED="0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 3, output
    summary = json.loads((tmp_path / "output" / "jobs.batch" / "batch.json").read_text())
    found = {each["name"]: each for each in summary["jobs"]}
    assert (found["good"]["state"], found["bad"]["state"]) == ("delivered", "failed"), output
    assert "nowhere" in found["bad"]["problems"][0]
    logs = [path for path in ray_folder.rglob("*") if path.is_file()]
    assert len(logs) > 5
    holding = [str(path) for path in logs if SECRET.encode() in path.read_bytes()]
    assert (holding, SECRET in output) == ([], False)


def test_only_what_destinations_need_travels(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    environ = {"HF_TOKEN_FILE": str(tmp_path / "key"), "AWS_REGION": "eu-west-1"}
    others = {"RUNPOD_API_KEY": "another-word", "HOME": "/root", "TENNER_SEED": "1"}
    assert travelling({**environ, **others}) == {"HF_TOKEN": SECRET, "AWS_REGION": "eu-west-1"}
    request = load_request(JOB, {}, read_default_config=False)
    order = Order(request=request, lease_seconds=1.0, environ=travelling(environ))
    assert SECRET not in repr(order)


def start(folder: Path, node: str, order: Order) -> subprocess.Popen[bytes]:
    """A job's process as on a node of its own, which keeps runs in a folder of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tenner.queue.cluster.job", str(folder / f"{node}.json")],
        env=environment(TENNER_OUTPUT_DIR=str(folder / node)),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(order))
    process.stdin.flush()
    return process


def steps_taken(folder: Path, node: str) -> list[tuple[str, int]]:
    """When this node took which step, without the steps of earlier attempts."""
    log = folder / node / "cat" / "engine.log"
    events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [(node, each["step"]) for each in events if each["event"] == "step"]


@pytest.mark.long
def test_a_job_whose_machine_is_killed_resumes_on_another_one_and_never_on_both(
    tmp_path: Path,
) -> None:
    there = tmp_path / "there"
    output = {**JOB, "max_train_steps": "60", "save_every_n_steps": "10", "output_name": "cat"}
    output["destinations"] = f"file://{there}"
    request = load_request(output, {}, read_default_config=False)
    order = Order(request=request, lease_seconds=3.0, environ={})
    first, second = start(tmp_path, "one", order), None
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and not list(there.rglob("complete.json")):
            time.sleep(0.02)
        second = start(tmp_path, "two", order)
        for pid in [first.pid, *descendants(first.pid)]:
            os.kill(pid, signal.SIGKILL)
        assert second.wait(timeout=120) == 0
    finally:
        for each in (first, second):
            if each is not None:
                each.kill()
                each.wait()
                assert each.stdin is not None
                each.stdin.close()
    result = json.loads((tmp_path / "two.json").read_text())
    assert (result["state"], result["generation"]) == ("delivered", 2)
    first_steps = [step for _, step in steps_taken(tmp_path, "one")]
    second_steps = [step for _, step in steps_taken(tmp_path, "two")]
    assert second_steps[-1] == 60
    assert second_steps[0] > 10, "what was saved was trained again"
    assert second_steps[0] <= first_steps[-1] + 1
    ledger = json.loads((there / ".tenner" / "cat" / "ledger.json").read_text())
    assert [attempt["ending"] for attempt in ledger["attempts"]][-1] == "delivered"
    assert (there / "manifest.json").is_file()
