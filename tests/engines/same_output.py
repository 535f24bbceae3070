"""Asks programs for a U-Net's output with LoRAs (`unet_output.py`), and holds them together."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parent / "unet_output.py"


def _ask(python: str, base: Path, folder: Path, words: Sequence[str]) -> None:
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [python, str(SCRIPT), str(base), str(folder), *words],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def assert_same_output(base: Path, loras: Sequence[Path], folder: Path, program: str) -> None:
    """For each LoRA the same output to 1e-4 by the formula and by `program`, and far from the
    base's own. sd-scripts is asked in the trainer's Python."""
    mine = [f"{how}={lora}" for lora in loras for how in ("none", "merged")]
    theirs = [f"{program}={lora}" for lora in loras]
    if program == "sd-scripts":
        _ask(os.environ["TENNER_TRAINER_PYTHON"], base, folder, theirs)
        theirs = []
    _ask(sys.executable, base, folder, [*mine, *theirs])
    for lora in loras:
        alone, merged, found = (
            np.load(folder / f"{lora.stem}-{how}.npy") for how in ("none", "merged", program)
        )
        moved, away = np.abs(merged - alone).max(), np.abs(found - merged).max()
        assert moved > 3e-3, (lora.stem, moved)
        assert away < 1e-4, (lora.stem, away, moved)
