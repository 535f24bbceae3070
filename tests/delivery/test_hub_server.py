"""The loopback Hub, held to what the real client library makes of it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

sys.path.insert(0, str(Path(__file__).parent))

from servers.hub_server import Hub, hub_server
from servers.hub_state import Account

TOKEN = "loopback-write-word"
# The client library gives its uploads to its HTTP library in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        hub.state.tokens[TOKEN] = Account("me")
        yield hub


def test_the_real_client_writes_lists_reads_and_deletes(hub: Hub, tmp_path: Path) -> None:
    hub.state.part_bytes = 1 << 20
    api = HfApi(endpoint=hub.url, token=TOKEN)
    assert api.whoami()["name"] == "me"
    api.create_repo("me/cat", private=True, exist_ok=True)
    weights = tmp_path / "cat.safetensors"
    weights.write_bytes(os.urandom((2 << 20) + 5))
    with weights.open("rb") as opened:
        add = CommitOperationAdd("a b/cat.safetensors", opened)
        api.create_commit(
            "me/cat", [add, CommitOperationAdd("x.txt", b"x")], commit_message="first"
        )
    tree = {each.path: each for each in api.list_repo_tree("me/cat", recursive=True)}
    assert tree["a b/cat.safetensors"].lfs.size == (2 << 20) + 5
    assert api.repo_info("me/cat").private
    back = api.hf_hub_download("me/cat", "a b/cat.safetensors", cache_dir=tmp_path / "cache")
    assert Path(back).read_bytes() == weights.read_bytes()
    api.create_commit("me/cat", [CommitOperationDelete("x.txt")], commit_message="second")
    assert [each.path for each in api.get_paths_info("me/cat", ["x.txt", "a b"])] == []


def test_a_whole_dataset_comes_down(hub: Hub, tmp_path: Path) -> None:
    repo = hub.state.make_repo("dataset", "me/photos")
    hub.state.add_files(repo, {"1_cat/a.png": b"\x89PNG" + bytes(99), "1_cat/a.txt": b"a cat"})
    found = HfApi(endpoint=hub.url, token=False).snapshot_download(
        "me/photos", repo_type="dataset", cache_dir=tmp_path
    )
    assert (Path(found) / "1_cat/a.txt").read_text() == "a cat"
    assert (Path(found) / "1_cat/a.png").read_bytes()[:4] == b"\x89PNG"


def test_strangers_and_readers_may_not_write(hub: Hub) -> None:
    hub.state.tokens["reader-word"] = Account("you", role="read")
    for token in ("reader-word", "unknown-word"):
        with pytest.raises(HfHubHTTPError):
            HfApi(endpoint=hub.url, token=token).create_repo("me/cat")
