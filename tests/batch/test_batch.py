"""Many jobs in one session, started as users start them, on the tiny base."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tenner.base.tiny import concept_dir

COMMON = f"""
base_model = "tiny"
dataset = "{concept_dir()}"
resolution = 64
min_bucket_reso = 64
batch_size = 4
network_dim = 2
optimizer_type = "AdamW"
max_train_steps = 3
save_every_n_steps = 100
no_samples = true
price_per_hour = 0.5
"""


def environment() -> dict[str, str]:
    environ = {
        key: value for key, value in os.environ.items() if not key.startswith(("TENNER_", "SD_"))
    }
    return {**environ, "OMP_NUM_THREADS": "1"}


def tenner(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tenner", *words],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def summary(cwd: Path) -> dict[str, Any]:
    return json.loads((cwd / "output" / "jobs.batch" / "batch.json").read_text())


def states(cwd: Path) -> dict[str, str]:
    return {each["name"]: each["state"] for each in summary(cwd)["jobs"]}


def steps_of(cwd: Path, name: str) -> int:
    """Steps that a run took over all its starts."""
    return (cwd / "output" / name / "events.jsonl").read_text().count('"event": "step"')


def weights(cwd: Path, name: str) -> bytes:
    content = (cwd / "output" / name / "checkpoints" / f"{name}.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


@pytest.mark.long
def test_one_bad_job_does_not_stop_the_others_and_a_second_start_does_only_what_is_left(
    tmp_path: Path,
) -> None:
    jobs = COMMON + '[[jobs]]\noutput_name = "one"\nseed = 1\n[[jobs]]\noutput_name = "bad"\n'
    jobs += 'dataset = "later"\n[[jobs]]\noutput_name = "two"\nseed = 2\n'
    (tmp_path / "jobs.toml").write_text(jobs)
    done = tenner(tmp_path, "batch", "jobs.toml")
    assert done.returncode == 3, done.stdout + done.stderr
    assert states(tmp_path) == {"one": "delivered", "bad": "failed", "two": "delivered"}
    found = {each["name"]: each for each in summary(tmp_path)["jobs"]}
    assert "later" in found["bad"]["problems"][0]
    assert found["two"]["cost_usd"] > 0
    assert found["two"]["loss"] > 0
    assert (tmp_path / "output" / "two" / "delivered" / "manifest.json").is_file()
    log = (tmp_path / "output" / "two" / "engine.log").read_text()
    assert "Traceback" not in log
    shared = tmp_path / "output" / "jobs.batch"
    assert len(list((shared / "datasets").iterdir())) == 1
    assert len(list((shared / "latents").iterdir())) == 20
    page = (shared / "batch.html").read_text()
    assert 'href="../one/report.html"' in page
    status = tenner(tmp_path, "status", "output/jobs.batch")
    assert "one: delivered" in status.stdout
    assert "bad: failed\n  problem    the dataset later is not there" in status.stdout
    assert "2 of 3 jobs delivered" in status.stdout
    listed = json.loads(tenner(tmp_path, "status", "output/jobs.batch", "--json").stdout)
    assert [each["run_status"] and each["run_status"]["step"] for each in listed] == [3, None, 3]

    lines = COMMON.replace('"', "").replace(" = ", "=").split()
    words = [f"--{line}" for line in lines]
    alone = tenner(tmp_path, "train", *words, "--output_name=alone", "--seed=2")
    assert alone.returncode == 0, alone.stderr
    assert weights(tmp_path, "two") == weights(tmp_path, "alone")

    (tmp_path / "later").symlink_to(concept_dir(), target_is_directory=True)
    again = tenner(tmp_path, "batch", "jobs.toml")
    assert again.returncode == 0, again.stdout + again.stderr
    assert set(states(tmp_path).values()) == {"delivered"}
    assert [steps_of(tmp_path, each) for each in ("one", "bad", "two")] == [3, 3, 3]


@pytest.mark.long
def test_a_signal_stops_the_batch_and_the_next_start_resumes(tmp_path: Path) -> None:
    jobs = COMMON.replace("max_train_steps = 3", "max_train_steps = 16")
    jobs += '[[jobs]]\noutput_name = "one"\n[[jobs]]\noutput_name = "two"\n'
    (tmp_path / "jobs.toml").write_text(jobs)
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenner", "batch", "jobs.toml"],
            cwd=tmp_path,
            env=environment(),
            stdout=log,
            stderr=log,
        )
        events = tmp_path / "output" / "one" / "events.jsonl"
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if events.is_file() and '"event": "step"' in events.read_text():
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        log.seek(0)
        assert code == 143, log.read()
    assert states(tmp_path) == {"one": "stopped", "two": "waiting"}
    again = tenner(tmp_path, "batch", "jobs.toml")
    assert again.returncode == 0, again.stdout + again.stderr
    assert set(states(tmp_path).values()) == {"delivered"}
    assert [steps_of(tmp_path, each) for each in ("one", "two")] == [16, 16]


@pytest.mark.parametrize(
    ("words", "code", "states_then"),
    [
        (("--stop-after", "1"), 3, {"bad": "failed", "good": "waiting"}),
        (("--session-hours", "0"), 3, {"bad": "failed", "good": "budget"}),
    ],
)
def test_failures_and_the_budget_of_all_end_a_batch_before_the_next_job(
    tmp_path: Path, words: tuple[str, ...], code: int, states_then: dict[str, str]
) -> None:
    jobs = COMMON + '[[jobs]]\noutput_name = "bad"\ndataset = "nowhere"\n'
    (tmp_path / "jobs.toml").write_text(jobs + '[[jobs]]\noutput_name = "good"\n')
    done = tenner(tmp_path, "batch", "jobs.toml", *words)
    assert (done.returncode, states(tmp_path)) == (code, states_then), done.stderr
    assert not (tmp_path / "output" / "good" / "checkpoints").exists()
