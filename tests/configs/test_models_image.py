"""Base models as layers: the same bytes every time, and joined to an image without its content."""

import copy
import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "models_image.py"
WEIGHTS = bytes(range(256)) * 100


def layer(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The tar and its description, as the workflow makes them of what was fetched."""
    folder.mkdir()
    (folder / "some.safetensors").write_bytes(WEIGHTS)
    (folder / "some.txt").write_text("some/model at abc\n")
    subprocess.run(
        [sys.executable, SCRIPT, "layer", "some", folder], check=True, capture_output=True
    )
    return folder / "some.tar", json.loads((folder / "some.json").read_text())


def test_a_layer_holds_the_model_and_is_the_same_every_time(tmp_path: Path) -> None:
    first, reported = layer(tmp_path / "one")
    second, _ = layer(tmp_path / "two")
    content = first.read_bytes()
    assert content == second.read_bytes()
    assert reported["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert reported["size"] == len(content)
    assert not (tmp_path / "one" / "some.safetensors").exists(), "both would take its room"
    with tarfile.open(first) as packed:
        names = packed.getnames()
        weights = packed.extractfile("opt/models/some.safetensors")
        assert weights is not None
        assert weights.read() == WEIGHTS
    assert names == ["opt", "opt/models", "opt/models/some.safetensors", "opt/models/some.txt"]


MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"mediaType": "…", "digest": "sha256:old", "size": 1},
    "layers": [{"mediaType": "…tar+zstd", "digest": "sha256:aa", "size": 3}],
}
CONFIG = {
    "created": "2026-01-01T00:00:00Z",
    "architecture": "amd64",
    "os": "linux",
    "config": {"Labels": {"tenner.models": "slim", "tenner.cuda": "cu121"}, "Cmd": ["train"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:bb"]},
    "history": [{"created_by": "COPY"}],
}


def test_an_image_with_models_is_the_slim_one_with_their_layers(tmp_path: Path) -> None:
    packed, reported = layer(tmp_path / "model")
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**reported, "name": "other", "digest": "sha256:cc"}))
    manifest, config = tmp_path / "manifest.json", tmp_path / "config.json"
    manifest.write_text(json.dumps(MANIFEST))
    config.write_text(json.dumps(CONFIG))
    before = copy.deepcopy((MANIFEST, CONFIG))
    words = ["join", tmp_path / "out", manifest, config, packed.with_suffix(".json"), other]
    subprocess.run([sys.executable, SCRIPT, *words], check=True)
    content = (tmp_path / "out" / "config.json").read_bytes()
    whole = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert whole["config"]["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert whole["config"]["size"] == len(content)
    assert [each["digest"] for each in whole["layers"]] == [
        "sha256:aa",
        reported["digest"],
        "sha256:cc",
    ]
    assert all("name" not in each for each in whole["layers"])
    joined = json.loads(content)
    assert joined["rootfs"]["diff_ids"] == ["sha256:bb", reported["digest"], "sha256:cc"]
    assert len(joined["history"]) == 3
    assert joined["config"]["Labels"] == {"tenner.models": "full", "tenner.cuda": "cu121"}
    assert joined["config"]["Cmd"] == ["train"]
    assert before == (MANIFEST, CONFIG)
