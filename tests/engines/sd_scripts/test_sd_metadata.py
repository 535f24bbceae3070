"""What sd-scripts writes into a LoRA file, captured from the pinned commit on a real run.

`test_sd_real.py` holds a fresh file to the same; TEST_METADATA names where it keeps its metadata.
"""

import json
from pathlib import Path

import pytest

from tenner.core.redact import LocalPaths

CAPTURED = Path(__file__).parent / "metadata_sd15.json"


def test_no_value_is_or_holds_a_path_of_the_machine_that_trained() -> None:
    metadata: dict[str, str] = json.loads(CAPTURED.read_text())
    assert len(metadata) > 80
    paths = LocalPaths()
    assert {key: paths.removed(value) for key, value in metadata.items()} == metadata
    assert metadata["ss_sd_model_name"] == "sd15-random"  # of a folder elsewhere, its name
    assert list(json.loads(metadata["ss_dataset_dirs"])) == ["10_sks star"]


@pytest.mark.parametrize(
    "leak",
    [
        "/home/ali/models/sd15",
        "{'vae': '/workspace/vae.safetensors'}",
        "C:\\Users\\ali\\base.safetensors",
        '{"10_cat": {"image_dir": "/data/ali reza/10_cat"}}',
    ],
)
def test_a_path_among_them_would_be_seen(leak: str) -> None:
    assert LocalPaths().removed(leak) != leak
