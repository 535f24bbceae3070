"""A trained LoRA means the same to the programs that load it: their U-Net's output is equal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tenner.base.tiny import base_dir, concept_dir
from tests.engines.same_output import assert_same_output

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
SHORT = (
    *("--base_model", "tiny", "--resolution", "64", "--min_bucket_reso", "64", "--no_samples"),
    *("--batch_size", "4", "--optimizer_type", "AdamW", "--learning_rate", "3e-3"),
    *("--network_dim", "4", "--network_alpha", "2", "--max_train_steps", "3"),
)
CONVOLUTIONS = ("--conv_dim", "2", "--conv_alpha", "1")


def train(folder: Path, name: str, *words: str) -> Path:
    """The LoRA of a short run with the built-in trainer."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TENNER_")}
    named = ("--output_name", name)
    done = subprocess.run(
        [sys.executable, "-m", "tenner", "train", str(concept_dir()), *SHORT, *words, *named],
        cwd=folder,
        env={**environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "output" / name / "delivered" / f"{name}.safetensors"


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """A LoRA, one with convolutions, and one that resumes from the first."""
    folder = tmp_path_factory.mktemp("loras")
    first = train(folder, "first")
    return (
        first,
        train(folder, "convolutions", *CONVOLUTIONS),
        train(folder, "continued", "--network_weights", str(first)),
    )


def test_diffusers_computes_what_the_file_says(loras: tuple[Path, ...], tmp_path: Path) -> None:
    assert_same_output(base_dir(), loras, tmp_path, "diffusers")


@pytest.mark.sd_scripts
@pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set")
def test_sd_scripts_loader_computes_the_same(loras: tuple[Path, ...], tmp_path: Path) -> None:
    assert_same_output(base_dir(), loras, tmp_path, "sd-scripts")
