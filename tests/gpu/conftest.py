"""The device that tests of a card run on. Without a card they are skipped; a rehearsal runs on the
CPU what can run there."""

import os
import sys
from pathlib import Path

import pytest
import torch

for each in ("engines/native", "sample"):
    sys.path.append(str(Path(__file__).parents[1] / each))


@pytest.fixture(scope="session")
def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("GPU_DAY_REHEARSAL"):
        return torch.device("cpu")
    pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(scope="session")
def card(device: torch.device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("has no meaning on a CPU")
    return device
