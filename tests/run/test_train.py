"""The whole program, started as users start it, on the tiny base: short, but real."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from tenner.base.tiny import base_dir, concept_dir

SHORT = (
    *("--base_model", "tiny", "--resolution", "64", "--min_bucket_reso", "64"),
    *("--batch_size", "4", "--network_dim", "4", "--optimizer_type", "AdamW"),
    *("--save_every_n_steps", "2", "--max_train_steps", "4", "--learning_rate", "1e-3"),
)


def environment(**extra: str) -> dict[str, str]:
    environ = {
        key: value for key, value in os.environ.items() if not key.startswith(("TENNER_", "SD_"))
    }
    return {**environ, "OMP_NUM_THREADS": "1", **extra}


def tenner(cwd: Path, *args: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tenner", *args],
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_nothing_that_is_delivered_names_a_place_of_this_machine(tmp_path: Path) -> None:
    private = tmp_path / "privat-folder"
    shutil.copytree(base_dir(), private / "my-base")
    shutil.copytree(concept_dir(), private / "photos")
    (private / "mine.toml").write_text("max_train_steps = 2\n")
    args = ("train", str(private / "mine.toml"), *SHORT, "--dataset", str(private / "photos"))
    args = (*args, "--base_model", "privat-folder/my-base", "--no_samples")
    done = tenner(tmp_path, *args, "--output_dir", str(private / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    delivered = private / "out" / "my_lora" / "delivered"
    files = [each for each in delivered.rglob("*") if each.is_file()]
    assert {"report.html", "plan.json", "settings.toml"} <= {each.name for each in files}
    for each in files:
        content = each.read_bytes()
        assert b"privat-folder" not in content, each
        assert str(tmp_path).encode() not in content, each
    with safe_open(delivered / "my_lora.safetensors", "pt") as lora:
        assert lora.metadata()["ss_sd_model_name"] == "my-base"
    assert 'base_model = "my-base"' in (delivered / "settings.toml").read_text()


def test_a_folder_of_images_becomes_a_delivered_lora_and_a_second_start_trains_nothing(
    tmp_path: Path,
) -> None:
    args = ("train", str(concept_dir()), *SHORT, "--output_name", "star", "--no_samples")
    done = tenner(tmp_path, *args)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "output" / "star"
    manifest = json.loads((run / "delivered" / "manifest.json").read_text())
    names = {each["name"] for each in manifest["files"]}
    assert {"star.safetensors", "report.html", "settings.toml", "plan.json"} <= names
    with safe_open(run / "delivered" / "star.safetensors", "pt") as lora:
        keys = set(lora.keys())
        assert lora.metadata()["ss_network_dim"] == "4"
    assert any(key.startswith("lora_unet_") for key in keys)
    assert any(key.startswith("lora_te_") for key in keys)
    assert str(tmp_path) not in (run / "delivered" / "star.safetensors").read_bytes().decode(
        "latin1"
    )
    before = (run / "checkpoints" / "star.safetensors").read_bytes()
    again = tenner(tmp_path, *args)
    assert again.returncode == 0, again.stdout + again.stderr
    steps = [line for line in (run / "events.jsonl").read_text().splitlines() if '"step"' in line]
    assert sum('"event": "step"' in line for line in steps) == 4
    assert (run / "checkpoints" / "star.safetensors").read_bytes() == before


def stop_after_next_state(folder: Path, job: tuple[str, ...], sent: signal.Signals) -> None:
    """Start the run `cut`, signal it once it has saved a state, and wait for its end."""
    events = folder / "output" / "cut" / "events.jsonl"
    saved = num_states(events)
    with (folder / "cut.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenner", "train", *job, "--output_name", "cut"],
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if num_states(events) > saved:
                break
            time.sleep(0.02)
        process.send_signal(sent)
        code = process.wait(timeout=60)
        log.seek(0)
        assert code == 143, log.read()


def num_states(events: Path) -> int:
    return events.read_text().count('"event": "state"') if events.is_file() else 0


@pytest.mark.long
def test_a_run_that_was_stopped_is_resumed_to_the_same_weights(tmp_path: Path) -> None:
    args = [*SHORT, "--no_samples", "--max_train_steps", "30", "--save_every_n_steps", "3"]
    job = (str(concept_dir()), *args)
    whole = tenner(tmp_path, "train", *job, "--output_name", "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    for sent in (signal.SIGTERM, signal.SIGINT):
        stop_after_next_state(tmp_path, job, sent)
    again = tenner(tmp_path, "train", *job, "--output_name", "cut")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "step 1/30" not in again.stderr
    cut, uncut = (
        (tmp_path / "output" / name / "checkpoints" / f"{name}.safetensors")
        for name in ("cut", "whole")
    )
    with safe_open(cut, "pt") as one, safe_open(uncut, "pt") as other:
        assert set(one.keys()) == set(other.keys())
        for key in one.keys():  # noqa: SIM118  it is no dict
            assert one.get_tensor(key).equal(other.get_tensor(key)), key


def test_a_changed_job_in_the_same_folder_is_refused_with_the_difference(tmp_path: Path) -> None:
    args = ("train", str(concept_dir()), *SHORT, "--no_samples", "--max_train_steps", "2")
    assert tenner(tmp_path, *args).returncode == 0
    changed = tenner(tmp_path, *args, "--seed", "7")
    assert changed.returncode == 2
    assert "seed: 42 → 7" in changed.stderr


def test_everything_wrong_is_reported_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    done = tenner(
        tmp_path,
        *("train", "--epochs", "10", "--seed", "-1", "--mixed_precision", "fp-16"),
        TENNER_LEARNIG_RATE="1",
    )
    assert done.returncode == 2
    for part in ("max_train_epochs", "at least 0", '"fp16"', "TENNER_LEARNING_RATE"):
        assert part in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("train", "nowhere.toml"), 2, "no settings file"),
        (("train", "--base_model", "tiny", "--dataset", "nowhere"), 3, "not there"),
        (("train", "--base_model", "nowhere.safetensors"), 2, "no base model"),
        (("train", "--base_model", "tiny", "--destinations", "ftp://x"), 2, "ftp://"),
    ],
)
def test_exit_codes_say_who_must_act(
    tmp_path: Path, args: tuple[str, ...], code: int, message: str
) -> None:
    done = tenner(tmp_path, *args)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr


def test_a_token_in_the_wrong_place_is_not_printed(tmp_path: Path) -> None:
    token = "hf_" + "A1b2C3d4" * 4
    done = tenner(tmp_path, "train", "--base_model", token, TENNER_HUB_TOKN=token)
    assert done.returncode == 2
    assert token not in done.stdout + done.stderr


def test_plan_tells_steps_without_training(tmp_path: Path) -> None:
    done = tenner(tmp_path, "plan", str(concept_dir()), *SHORT, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (plan["num_steps"], plan["steps_per_epoch"]) == (4, 5)
    assert list(tmp_path.iterdir()) == []


def test_help_and_version_import_no_torch(tmp_path: Path) -> None:
    for args in (["train", "--help"], ["version"]):
        code = (
            "import sys\nfrom tenner.cli.main import main\n"
            f"try: main({args!r})\nexcept SystemExit: pass\n"
            "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
