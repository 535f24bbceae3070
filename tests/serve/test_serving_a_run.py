"""`serve = true` on a real run: watched while it trains, finished by the button's request."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tenner.base.tiny import concept_dir

JOB = {
    "base_model": "tiny",
    "dataset": str(concept_dir()),
    "resolution": "64",
    "min_bucket_reso": "64",
    "device": "cpu",
    "batch_size": "4",
    "optimizer_type": "AdamW",
    "max_train_epochs": "5000",
    "no_samples": "true",
    "output_name": "served",
    "serve": "true",
    "serve_port": "0",
}


@pytest.mark.long
def test_a_run_is_watched_and_finished_from_its_page(tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TENNER_")}
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenner", "train", *(f"--{k}={v}" for k, v in JOB.items())],
            cwd=tmp_path,
            env={**environ, "OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out,
        )
    try:
        deadline, seen, token = time.monotonic() + 200, 0, ""
        while time.monotonic() < deadline and process.poll() is None and seen < 3:
            time.sleep(0.2)
            found = re.search(r"(http://127\.0\.0\.1:\d+/)\?token=(\S+)", log.read_text())
            if not found:
                continue
            base, token = found[1], found[2]
            headers = {"Authorization": f"Bearer {token}"}
            live = httpx.get(f"{base}live.json", headers=headers)
            seen = live.json()["step"] if live.status_code == 200 else 0
        assert seen >= 3, log.read_text()
        page = httpx.get(f"{base}?token={token}")
        assert 'id="finish"' in page.text
        assert httpx.post(f"{base}finish").status_code == 401
        assert httpx.post(f"{base}finish", headers=headers).status_code == 202
        assert process.wait(timeout=100) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    run = tmp_path / "output" / "served"
    assert (run / "delivered" / "served.safetensors").is_file()
    for file in run.rglob("*"):
        if file.is_file():
            assert token.encode() not in file.read_bytes(), file
