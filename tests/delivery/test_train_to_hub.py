"""The whole program, from pictures to a repo on the (loopback) Hub, as users start it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from servers.fault_proxy import Proxy, Spoil, fault_proxy
from servers.hub_server import Hub, hub_server
from servers.hub_state import Account

from tenner.base.tiny import base_dir, concept_dir

TOKEN = "hf_" + "loopbackWord" * 3
SHORT = (
    *("--base_model", "hf://me/tiny", "--resolution", "64", "--min_bucket_reso", "64"),
    *("--device", "cpu"),
    *("--batch_size", "4", "--network_dim", "4", "--optimizer_type", "AdamW"),
    *("--max_train_steps", "2", "--save_every_n_steps", "2", "--trigger", "sks star"),
    *("--sample_seeds", "1", "--sample_strengths", "0.8", "--sample_steps", "2"),
)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        hub.state.tokens[TOKEN] = Account("me")
        yield hub


@pytest.fixture
def proxy(hub: Hub) -> Iterator[Proxy]:
    with fault_proxy(hub.port) as proxy:
        yield proxy


def tenner(cwd: Path, proxy: Proxy, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("TENNER_")}
    endpoint = f"http://127.0.0.1:{proxy.port}"
    env |= {"OMP_NUM_THREADS": "1", "HF_TOKEN": TOKEN, "HF_ENDPOINT": endpoint}
    env |= {"TENNER_CACHE_DIR": str(cwd / "cache"), **extra}
    return subprocess.run(
        [sys.executable, "-m", "tenner", *words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def files_with(folder: Path, text: str) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if text.encode() in path.read_bytes()]


@pytest.mark.long
def test_a_run_on_a_base_from_the_hub_ends_as_a_private_repo_with_its_card(
    hub: Hub, proxy: Proxy, tmp_path: Path
) -> None:
    files = [path for path in base_dir().rglob("*") if path.is_file()]
    tiny = {path.relative_to(base_dir()).as_posix(): path.read_bytes() for path in files}
    hub.state.add_files(hub.state.make_repo("model", "me/tiny", private=True), tiny)
    words = ("train", str(concept_dir()), *SHORT, "--output_name", "star")
    done = tenner(tmp_path, proxy, *words, "--destinations", "hf://me/star", HF_DEBUG="1")
    assert done.returncode == 0, done.stdout + done.stderr
    reported = done.stdout + done.stderr

    repo = hub.state.repos["model", "me/star"]
    assert repo.private
    sets = [each for each in repo.branches["main"] if "manifest.json" in each.changed]
    assert len(sets) == 1
    assert {"README.md", "report.html"} <= set(sets[0].changed)
    tree = repo.head("main").tree
    assert {"star.safetensors", "samples/grid.png"} <= set(tree)
    card = tree["README.md"].content
    assert card is not None
    head = yaml.safe_load(card.decode().split("---\n")[1])
    assert head["base_model"] == "me/tiny"
    assert head["instance_prompt"] == "sks star"
    assert {each["output"]["url"] for each in head["widget"]} <= set(tree)
    assert 'load_lora_weights("me/star"' in card.decode()
    for path, blob in tree.items():
        content = hub.state.large[blob.sha256] if blob.content is None else blob.content
        assert str(tmp_path).encode() not in content, path
    commits = repo.branches["main"][1:]  # the first is the Hub's own
    assert ["manifest.json" in each.changed for each in commits] == [False, True, False]
    assert {"star.safetensors", ".tenner/star/ledger.json"} <= set(commits[0].changed)

    refused = {"X-Error-Message": f"Forbidden for {TOKEN}"}
    spoilt = Spoil(status=403, headers=refused)
    proxy.fault = lambda sent: spoilt if "/commit/" in sent.path else None
    deliver = ("deliver", str(tmp_path / "output" / "star"), "--destinations", "hf://me/other")
    failed = tenner(tmp_path, proxy, *deliver, HF_DEBUG="1")
    assert failed.returncode == 6, failed.stdout + failed.stderr
    assert "tenner deliver" in failed.stdout + failed.stderr
    proxy.fault = lambda sent: None
    assert tenner(tmp_path, proxy, *deliver).returncode == 0
    assert TOKEN not in reported + failed.stdout + failed.stderr
    assert files_with(tmp_path, TOKEN) == []
