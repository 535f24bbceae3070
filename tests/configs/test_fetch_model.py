"""The build's download of a base model: it resumes after a cut, and takes nothing but the file."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.fault_proxy import Proxy, SeenRequest, Spoil, fault_proxy
from servers.hub_server import hub_server

ROOT = Path(__file__).resolve().parents[2]
FETCH = ROOT / "docker" / "fetch_model.py"
CONTENT = os.urandom(256) * 100_000


@pytest.fixture
def host() -> Iterator[tuple[Proxy, str]]:
    """A Hub that cuts the first download in its middle, and the commit that holds the model."""
    cut: list[SeenRequest] = []

    def once(sent: SeenRequest) -> Spoil | None:
        if sent.method == "GET" and "/large/" in sent.path and not cut:
            cut.append(sent)
            return Spoil(cut=True)
        return None

    with hub_server() as hub, fault_proxy(hub.port) as proxy:
        repo = hub.state.make_repo("model", "some/model")
        commit = hub.state.add_files(repo, {"model.safetensors": CONTENT})
        proxy.fault = once
        yield proxy, commit.sha


def fetch(
    host: tuple[Proxy, str], folder: Path, **facts: object
) -> subprocess.CompletedProcess[str]:
    proxy, commit = host
    facts = {
        "id": "some/model",
        "revision": commit,
        "file": "model.safetensors",
        "num_bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "licence": "openrail++",
        **facts,
    }
    models = folder / "models.toml"
    lines = [f"{key} = {value!r}" for key, value in facts.items()]
    models.write_text("\n".join(["[some]", *lines]))
    url = f"http://127.0.0.1:{proxy.port}"
    return subprocess.run(
        [sys.executable, FETCH, "some", models, folder / "models", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_cut_download_is_resumed(host: tuple[Proxy, str], tmp_path: Path) -> None:
    done = fetch(host, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "some.safetensors").read_bytes() == CONTENT
    assert "licence: openrail++" in (tmp_path / "models" / "some.txt").read_text()
    assert len(list((tmp_path / "models").iterdir())) == 2
    large = [each for each in host[0].seen if each.method == "GET" and "/large/" in each.path]
    assert [each.headers.get("Range") for each in large] == [None, "bytes=10485760-"]


def test_another_file_under_that_name_is_refused_and_removed(
    host: tuple[Proxy, str], tmp_path: Path
) -> None:
    done = fetch(host, tmp_path, sha256="0" * 64)
    assert done.returncode != 0
    assert "SHA-256" in done.stderr
    assert list((tmp_path / "models").iterdir()) == []


def test_what_is_not_there_is_not_requested_again(host: tuple[Proxy, str], tmp_path: Path) -> None:
    done = fetch(host, tmp_path, file="other.safetensors")
    assert done.returncode != 0
    assert "404" in done.stderr
    assert "try 2" not in done.stderr


def test_the_build_installs_what_it_imports() -> None:
    """By the Dockerfile, from a lock that has hashes; the versions are those that are tested."""
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    (stage,) = [each for each in stages if each.startswith("build AS fetch\n")]
    assert "--require-hashes -r /build/fetch.txt" in stage
    python = re.search(r"--python (\S+)", stage)
    assert python
    users = [each for each in stages if "fetch_model.py" in each]
    assert [each.split("\n")[0] for each in users] == ["fetch AS fetch-sd15", "fetch AS fetch-sdxl"]
    assert all(f"RUN {python[1]} /build/fetch_model.py" in each for each in users)
    lock = (ROOT / "docker" / "locks" / "fetch.txt").read_text()
    (version,) = re.findall(r"^huggingface-hub==(\S+)", lock, re.MULTILINE)
    assert f"huggingface_hub=={version}\n" in (ROOT / "constraints.txt").read_text()
