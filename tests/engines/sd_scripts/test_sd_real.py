"""The real sd-scripts on a CPU, through the whole program: full-size models of random weights.

Opt-in, see CONTRIBUTING: `SD_SCRIPTS_DIR` and `TENNER_TRAINER_PYTHON` name the trainer;
`TEST_MODELS` a folder where the models are kept (else SD 1.5 is made anew each time). SDXL
needs that folder, 7 GB of disk and 17 GB of memory (16.6 at its peak, as measured; a minute in all
on two cores): it is requested with `TEST_SDXL=1`.
"""

import getpass
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

from tenner.base.tiny import concept_dir
from tenner.core.redact import LocalPaths
from tests.engines.same_output import assert_same_output
from tests.guide import GUIDE

pytestmark = [
    pytest.mark.sd_scripts,
    pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set"),
    pytest.mark.timeout(2400),
]
ROOT = Path(__file__).resolve().parents[3]
LIGHT = (
    *("--device", "cpu", "--resolution", "64", "--min_bucket_reso", "64", "--no_samples"),
    *("--network_dim", "4", "--network_alpha", "4", "--optimizer_type", "AdamW"),
)
"""What a CPU does in a test's time."""


def made(maker: Path, *words: str | Path) -> None:
    """Run a maker of models in the trainer's Python."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "entrypoint")}
    python = os.environ["TENNER_TRAINER_PYTHON"]
    subprocess.run([python, maker, *words], env=environ, check=True)


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    environ = os.environ.get("TEST_MODELS")
    folder = (Path(environ) if environ else tmp_path_factory.mktemp("models")) / "sd15-random"
    if not (folder / "model_index.json").is_file():
        made(ROOT / "tests" / "image" / "make_random_base.py", folder)
    return folder


TENNER = ("-m", "tenner")
"""The program, as a Python is told to run it."""


def train(cwd: Path, *words: str | Path, program: Sequence[str] = TENNER) -> Path:
    """`tenner train`, which has to deliver. Returns the run's directory."""
    done = subprocess.run(
        [sys.executable, *program, "train", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    run = cwd / "output" / "my_lora"
    log = run / "engine.log"
    reported = log.read_text(errors="replace")[-3000:] if log.is_file() else ""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{reported}"
    assert "delivered and verified" in done.stdout
    return run


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [each for each in lines if each["event"] == kind]


def assert_lora(run: Path, *parts: str) -> None:
    """What was delivered is a LoRA of sd-scripts, with tensors of these parts."""
    (path,) = (run / "delivered").glob("my_lora.safetensors")
    with safe_open(path, "pt") as weights:
        names = list(weights.keys())
        metadata = weights.metadata()
    assert metadata["ss_sd_scripts_commit_hash"]
    paths = LocalPaths()
    assert {key: paths.removed(value) for key, value in metadata.items()} == metadata
    assert getpass.getuser() not in json.dumps(metadata).split()
    if environ := os.environ.get("TEST_METADATA"):
        Path(environ).write_text(json.dumps(metadata, indent=1, sort_keys=True) + "\n")
    for part in parts:
        assert any(name.startswith(part) for name in names), part


LOAD = """
import sys, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.float16)
pipe.load_lora_weights(sys.argv[2])
print(sorted(name for name, found in pipe.get_list_adapters().items() if found))
"""


def test_the_guides_settings_train_delivered_and_verified(sd15: Path, tmp_path: Path) -> None:
    (tmp_path / "training_config.toml").write_text(GUIDE)
    shutil.copytree(concept_dir() / "1_sks star", tmp_path / "training_data" / "10_sks star")
    words = ("--pretrained_model_name_or_path", sd15, "--max_train_steps", "2")
    run = train(tmp_path, *LIGHT, *words, "--lr_warmup_steps", "0", "--batch_size", "1")
    assert [each["step"] for each in events(run, "step")] == [1, 2]
    assert_lora(run, "lora_unet_", "lora_te_")
    lora = run / "delivered" / "my_lora.safetensors"
    text = subprocess.run(
        [sys.executable, "-c", LOAD, sd15, lora], capture_output=True, text=True, check=False
    )
    assert text.stdout.strip() == "['text_encoder', 'unet']", text.stderr[-2000:]


def test_both_engines_tell_the_same_mean_loss(sd15: Path, tmp_path: Path) -> None:
    """One epoch of 20 steps, since sd-scripts tells the mean of an epoch (1.07 when it was
    measured, and 1.095 from the built-in trainer: they draw other noise)."""
    shutil.copytree(concept_dir() / "1_sks star", tmp_path / "data" / "4_sks star")
    means: dict[str, float] = {}
    for engine in ("sd-scripts", "native"):
        location = tmp_path / engine
        location.mkdir()
        words = ("--engine", engine, "--base_model", sd15, "--dataset", tmp_path / "data")
        words = (*words, "--batch_size", "4", "--max_train_steps", "20")
        words = (*words, "--lr_scheduler", "constant", "--lr_warmup_steps", "0")
        run = train(location, *LIGHT, *words, "--learning_rate", "1e-4")
        steps = events(run, "step")
        assert [each["step"] for each in steps] == list(range(1, 21))
        if engine == "sd-scripts":
            means[engine] = steps[-1]["loss_avg"]
        else:
            means[engine] = statistics.mean(each["loss"] for each in steps)
    print(means)
    assert means["native"] == pytest.approx(means["sd-scripts"], rel=0.05)


@pytest.fixture(scope="module")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predicts v."""
    environ = os.environ.get("TEST_MODELS")
    folder = (Path(environ) if environ else tmp_path_factory.mktemp("models")) / "sd2-random"
    if not (folder / "model_index.json").is_file():
        made(ROOT / "tests" / "image" / "make_random_base.py", folder, "sd2")
    return folder


@pytest.mark.parametrize(
    ("scheduler", "version"),
    [
        ({}, "sd_v2_v"),
        ({"rescale_betas_zero_snr": True}, "sd_v2_v"),
        ({"prediction_type": "epsilon"}, "sd_v2"),
    ],
    ids=["v", "v-zero-snr", "epsilon"],
)
def test_sd2_trains_as_its_scheduler_says(
    sd2: Path, tmp_path: Path, scheduler: dict[str, object], version: str
) -> None:
    base = tmp_path / "base"
    shutil.copytree(sd2, base, copy_function=os.link)
    file = base / "scheduler" / "scheduler_config.json"
    text = json.loads(file.read_text()) | scheduler
    file.unlink()  # it is a link to the original
    file.write_text(json.dumps(text))
    words = ("--engine", "sd-scripts", "--base_model", base, "--dataset", concept_dir())
    words = (*words, "--max_train_steps", "2", "--batch_size", "1", "--lr_warmup_steps", "0")
    run = train(tmp_path, *LIGHT, *words)
    assert [each["step"] for each in events(run, "step")] == [1, 2]
    assert_lora(run, "lora_unet_", "lora_te_")
    with safe_open(run / "delivered" / "my_lora.safetensors", "pt") as weights:
        metadata = weights.metadata()
    assert metadata["ss_v2"] == "True"
    assert metadata["ss_base_model_version"] == version
    assert metadata["ss_zero_terminal_snr"] == str("rescale_betas_zero_snr" in scheduler)


@pytest.fixture(scope="module")
def loras(sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """LoRAs of sd-scripts: one, one with convolutions, one that resumes from the first."""
    folder = tmp_path_factory.mktemp("loras")
    words: tuple[str | Path, ...] = (
        *("--engine", "sd-scripts", "--base_model", sd15, "--dataset", concept_dir(), *LIGHT),
        *("--batch_size", "1", "--max_train_steps", "3", "--lr_warmup_steps", "0"),
        *("--network_alpha", "2", "--learning_rate", "1e-2"),
    )
    found: list[Path] = []
    for name, more in (
        ("first", ()),
        ("convolutions", ("--conv_dim", "2")),  # alpha left open: 1, as in the native trainer
        ("continued", ("--network_weights", folder / "first.safetensors")),
    ):
        cwd = folder / name
        cwd.mkdir()
        run = train(cwd, *words, *more)
        found.append(folder / f"{name}.safetensors")
        shutil.copy(run / "delivered" / "my_lora.safetensors", found[-1])
    return tuple(found)


@pytest.mark.parametrize("program", ["diffusers", "sd-scripts"])
def test_what_sd_scripts_trained_means_the_same_to_programs_that_load_it(
    sd15: Path, loras: tuple[Path, ...], tmp_path: Path, program: str
) -> None:
    """Also with convolutions, and where it went on from another: it is not its start any more."""
    first, convolutions, continued = (load_file(path) for path in loras)
    alphas = {name: float(value) for name, value in convolutions.items() if "alpha" in name}
    kernels = {
        name.replace("lora_down.weight", "alpha"): tuple(value.shape[2:])
        for name, value in convolutions.items()
        if "lora_down" in name
    }
    assert {alphas[name] for name, size in kernels.items() if size == (3, 3)} == {1.0}
    assert {alphas[name] for name, size in kernels.items() if size != (3, 3)} == {2.0}
    assert first.keys() == continued.keys()
    assert not any(
        value.equal(continued[name]) for name, value in first.items() if "lora_up" in name
    )
    assert_same_output(sd15, loras, tmp_path, program)


def start(
    cwd: Path, *words: str | Path, program: Sequence[str] = TENNER
) -> subprocess.Popen[bytes]:
    """`tenner train` on one core, where sd-scripts' own sums come out the same every time."""
    cwd.mkdir(exist_ok=True)
    core = str(min(os.sched_getaffinity(0)))
    with (cwd / "program.log").open("ab") as log:
        return subprocess.Popen(
            ["taskset", "-c", core, sys.executable, *program, "train", *map(str, words)],
            cwd=cwd,
            env={**os.environ, "MKL_CBWR": "AVX2,STRICT"},
            stdout=log,
            stderr=log,
        )


def cut(
    cwd: Path,
    sent: signal.Signals,
    kind: str,
    step: int,
    *words: str | Path,
    program: Sequence[str] = TENNER,
) -> int:
    """Start it, signal it once there is an event of this kind and step; gives its exit code."""
    process, run = start(cwd, *words, program=program), cwd / "output" / "my_lora"

    def is_there() -> bool:
        log = run / "events.jsonl"
        return log.is_file() and any(each["step"] >= step for each in events(run, kind))

    while process.poll() is None and not is_there():
        time.sleep(0.1)
    process.send_signal(sent)
    return process.wait()


CHANGES_WITH_TIME = (
    *("modelspec.date", "ss_session_id", "ss_training_started_at", "ss_training_finished_at"),
    *("sshs_model_hash", "sshs_legacy_hash"),
)


def test_killed_and_stopped_within_epochs_it_is_the_run_that_never_was(
    sd15: Path, tmp_path: Path
) -> None:
    """Killed after the state of step 2, stopped by SIGTERM, resumed twice: the same weights,
    bit for bit, though images are mirrored, tags shuffled, neurons dropped and noise drawn."""
    data = tmp_path / "data" / "2_sks star"
    data.mkdir(parents=True)
    for number in range(1, 5):
        for file in (concept_dir() / "1_sks star").glob(f"{number:02d}.*"):
            shutil.copy(file, data)
    words: tuple[str | Path, ...] = (
        *("--engine", "sd-scripts", "--base_model", sd15, "--dataset", tmp_path / "data"),
        *("--batch_size", "2", "--max_train_steps", "6", "--lr_warmup_steps", "2", *LIGHT),
        *("--flip_aug", "true", "--shuffle_caption", "true", "--network_dropout", "0.1"),
        *("--multires_noise_iterations", "4", "--lr_scheduler", "cosine"),
        *("--learning_rate", "1e-3", "--grace_seconds", "120"),
    )
    assert start(tmp_path / "whole", *words).wait() == 0
    attempts = tmp_path / "attempts"
    each_step = (*words, "--save_state_every_minutes", "0.0001")
    assert cut(attempts, signal.SIGKILL, "state", 2, *each_step) == -signal.SIGKILL
    assert cut(attempts, signal.SIGTERM, "step", 4, *words) == 143
    log = (attempts / "program.log").read_text()
    run = attempts / "output" / "my_lora"
    stopped_at = max(int(each.name.split("-")[1]) for each in (run / "state").glob("step-*"))
    assert 4 <= stopped_at <= 5, log
    assert f"resumes from the state of step {stopped_at}" in log
    assert start(attempts, *words).wait() == 0, (attempts / "program.log").read_text()
    whole = tmp_path / "whole" / "output" / "my_lora" / "delivered" / "my_lora.safetensors"
    with safe_open(whole, "pt") as one, safe_open(run / "delivered" / whole.name, "pt") as other:
        names = list(one.keys())
        assert names == list(other.keys())
        differ = [name for name in names if not one.get_tensor(name).equal(other.get_tensor(name))]
        expected, found = one.metadata(), other.metadata()
    changed = {key for key in expected if expected[key] != found[key]}
    assert changed <= set(CHANGES_WITH_TIME)
    assert found["ss_steps"] == "6"
    assert differ == []


@pytest.mark.skipif("TEST_SDXL" not in os.environ, reason="TEST_SDXL is not set")
def test_sdxl_in_full_size_trains_delivered_and_verified(tmp_path: Path) -> None:
    base = Path(os.environ["TEST_MODELS"]) / "sdxl-random.safetensors"
    if not base.is_file():
        made(Path(__file__).with_name("make_random_sdxl.py"), os.environ["SD_SCRIPTS_DIR"], base)
    words = ("--engine", "sd-scripts", "--base_model", base, "--dataset", concept_dir())
    words = (*words, "--mixed_precision", "bf16", "--full_bf16", "true", "--max_train_steps", "2")
    words = (*words, "--network_train_unet_only", "true", "--batch_size", "1")
    run = train(tmp_path, *LIGHT, *words, "--lr_warmup_steps", "0")
    assert [each["step"] for each in events(run, "step")] == [1, 2]
    assert_lora(run, "lora_unet_")


def test_the_built_in_trainer_learns_of_one_file_what_it_learns_of_the_folder(
    sd2: Path, tmp_path: Path
) -> None:
    """SD 2.x in one file brings no tokenizer and names its text encoder's layers otherwise. What is
    learnt is the same, but where gradients are next to nothing: AdamW's first steps are as long
    there as elsewhere. The VAE is one for both: its file's hash seeds the noise of the latents."""
    single, half = tmp_path / "sd2.safetensors", tmp_path / "half"
    maker = Path(__file__).with_name("make_single_file.py")
    made(maker, os.environ["SD_SCRIPTS_DIR"], sd2, single, half)
    found: list[dict[str, Any]] = []
    for name, base in (("folder", half), ("file", single)):
        cwd = tmp_path / name
        cwd.mkdir()
        words = ("--engine", "native", "--base_model", base, "--v_parameterization", "true")
        words = (*words, "--dataset", concept_dir(), "--max_train_steps", "2", "--batch_size", "1")
        words = (*words, "--vae", half / "vae", "--learning_rate", "1e-3")
        run = train(cwd, *LIGHT, *words, "--lr_warmup_steps", "0")
        assert [each["step"] for each in events(run, "step")] == [1, 2]
        found.append(load_file(run / "delivered" / "my_lora.safetensors"))
    folder, file = found
    assert folder.keys() == file.keys()
    assert any(name.startswith("lora_te_") for name in file)
    ups = [name for name in folder if "lora_up" in name]  # zero at the start: all is learnt
    one, other = (torch.cat([each[name].float().flatten() for name in ups]) for each in found)
    assert cosine_similarity(one, other, dim=0) > 0.98
