"""A small tagger, and a Hub on loopback that has it in place of the pinned one."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.hub_server import Hub, hub_server

from tenner.dataset.captioning import models


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from tests.dataset.caption_models import tagger  # onnx takes a second to import

    return tagger(tmp_path / "model")


@pytest.fixture
def hub(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that holds the small tagger where the pinned one is."""
    with hub_server() as hub:
        pinned = models.PINNED["wd14"]
        repo = hub.state.make_repo("model", pinned.id)
        content = {path.name: path.read_bytes() for path in model.iterdir()}
        commit = hub.state.add_files(repo, content)
        files = tuple(
            models.ModelFile(
                name=name, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
            )
            for name, data in content.items()
        )
        small = replace(pinned, revision=commit.sha, files=files)
        monkeypatch.setattr(models, "PINNED", {**models.PINNED, "wd14": small})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("TENNER_CACHE_DIR", str(tmp_path / "cache"))
        yield hub
