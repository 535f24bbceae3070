"""Tokenizers that sd-scripts looks up on the Hub: fetched before the training, found offline."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.fault_proxy import Spoil, fault_proxy
from servers.hub_server import Hub, hub_server

from tenner.base.hub_tokenizers import find_tokenizers, write_tokenizers
from tenner.base.tiny import concept_dir
from tenner.families import FAMILIES

REPO = "google/gemma-2-2b"
FILES = {"tokenizer.json": b'{"version": "1.0"}', "tokenizer_config.json": b"{}"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that has Lumina's tokenizer, at the commit and with the SHA-256 that the family has."""
    with hub_server() as hub:
        repo = hub.state.make_repo("model", REPO)
        hub.state.add_files(repo, FILES)
        facts = FAMILIES["lumina2"]
        (known,) = facts.hub_tokenizers
        own = replace(
            known,
            revision=repo.head("main").sha,
            files={
                "tokenizer.json": hashlib.sha256(FILES["tokenizer.json"]).hexdigest(),
                "tokenizer_config.json": "",
            },
        )
        monkeypatch.setitem(FAMILIES, "lumina2", replace(facts, hub_tokenizers=(own,)))
        yield hub


def environ(url: str, folder: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": url, "TENNER_CACHE_DIR": str(folder), "HF_HUB_CACHE": str(folder)}


def test_they_are_fetched_once_and_found_by_their_name_without_a_network(
    hub: Hub, tmp_path: Path
) -> None:
    env = environ(hub.url, tmp_path / "cache")
    (note,) = find_tokenizers("lumina2", env, fetches=False, on_bytes=None).problems
    assert note.level == "note"
    assert REPO in note.text
    found = find_tokenizers("lumina2", env, fetches=True, on_bytes=None)
    assert found.problems == ()
    run = tmp_path / "tokenizers"
    for _ in range(2):  # each start of the trainer writes them
        write_tokenizers(run, "lumina2", found.files)
    for name, content in FILES.items():
        path = try_to_load_from_cache(REPO, name, cache_dir=run)
        assert isinstance(path, str)
        assert Path(path).read_bytes() == content
    nowhere = environ("http://127.0.0.1:9", tmp_path / "cache")
    assert find_tokenizers("lumina2", nowhere, fetches=False, on_bytes=None).problems == ()
    again = find_tokenizers("lumina2", nowhere, fetches=True, on_bytes=None)
    assert not again.problems
    contents = {Path(name).name: path.read_bytes() for name, path in again.files.items()}
    assert contents == FILES


def test_another_file_than_the_known_one_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = FAMILIES["lumina2"]
    (known,) = facts.hub_tokenizers
    other = replace(known, files={"tokenizer.json": "0" * 64})
    monkeypatch.setitem(FAMILIES, "lumina2", replace(facts, hub_tokenizers=(other,)))
    env = environ(hub.url, tmp_path)
    found = find_tokenizers("lumina2", env, fetches=True, on_bytes=None)
    (problem,) = found.problems
    assert problem.level == "error"
    assert "SHA-256" in problem.text
    assert not found.files


@pytest.mark.parametrize("fetches", [False, True])
def test_a_gated_one_is_requested_before_anything_is_rented(
    hub: Hub, tmp_path: Path, fetches: bool
) -> None:
    with fault_proxy(hub.port) as proxy:
        proxy.fault = lambda sent: (
            Spoil(status=403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "terms"})
            if "/resolve/" in sent.path
            else None
        )
        env = environ(f"http://127.0.0.1:{proxy.port}", tmp_path)
        found = find_tokenizers("lumina2", env, fetches=fetches, on_bytes=None)
    (problem,) = found.problems
    assert problem.level == "error"
    assert f"/{REPO}, accept its" in problem.fix
    assert "HF_TOKEN" in problem.fix


def test_each_tokenizer_has_a_fixed_commit() -> None:
    for facts in FAMILIES.values():
        for each in facts.hub_tokenizers:
            assert len(each.revision) == 40, each.hub_id
            assert all(len(sha256) in (0, 64) for sha256 in each.files.values())


def test_plan_refuses_a_base_whose_tokenizer_is_refused(hub: Hub, tmp_path: Path) -> None:
    with fault_proxy(hub.port) as proxy:
        proxy.fault = lambda sent: (
            Spoil(status=403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "terms"})
            if REPO in sent.path
            else None
        )
        env = {**os.environ, **environ(f"http://127.0.0.1:{proxy.port}", tmp_path)}
        words = ("plan", concept_dir(), "--base_model", "lumina2", "--gpu", "RTX 4090")
        done = subprocess.run(
            [sys.executable, "-m", "tenner", *words],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"open https://huggingface.co/{REPO}, accept its" in done.stdout + done.stderr
