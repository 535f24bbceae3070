"""Delivery to the Hub, with the real client, to one on loopback behind a fault proxy."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from remote_files import files_to_deliver
from servers.fault_proxy import Proxy, SeenRequest, Spoil, fault_proxy
from servers.hub_server import Hub, hub_server
from servers.hub_state import Account, Repo

from tenner.core.checksums import DeliveredFile
from tenner.core.errors import DeliveryError
from tenner.core.events import Event, Phase
from tenner.core.retry import Deadline
from tenner.core.secrets import Secrets
from tenner.runs.check_destinations import check_destinations
from tenner.runs.deliver import deliver
from tenner.storage.destination import Destination
from tenner.storage.destination_address import parse_destination
from tenner.storage.opening import open_store
from tenner.storage.store import Store

TOKEN, READER = "loopback-write-word", "loopback-read-word"
SECRETS = Secrets(values={"HF_TOKEN": TOKEN})
# The client library gives its uploads to its HTTP library in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        hub.state.tokens[TOKEN] = Account("me", orgs=("club",))
        hub.state.tokens[READER] = Account("me", role="read")
        yield hub


@pytest.fixture
def proxy(hub: Hub) -> Iterator[Proxy]:
    with fault_proxy(hub.port) as proxy:
        yield proxy


@pytest.fixture
def files(tmp_path: Path) -> list[DeliveredFile]:
    return files_to_deliver(tmp_path / "run", largest=(3 << 20) + 7)


TARGET = parse_destination("hf://me/cat")


def env(proxy: Proxy) -> dict[str, str]:
    return {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}


def store_at(proxy: Proxy, target: Destination = TARGET) -> Store:
    return open_store(target, secrets=SECRETS, env=env(proxy))


def deliver_to(
    proxy: Proxy,
    files: list[DeliveredFile],
    target: Destination = TARGET,
    seconds: float = 60,
    **more,
):
    delivered = deliver(
        files, [target], secrets=SECRETS, env=env(proxy), total_limit_seconds=seconds, **more
    )
    return delivered.at[0]


def check(proxy: Proxy, target: Destination = TARGET, token: str = TOKEN):
    secrets = Secrets(values={"HF_TOKEN": token})
    return check_destinations([target], secrets=secrets, env=env(proxy))


def repo_of(hub: Hub, name: str = "me/cat") -> Repo:
    return hub.state.repos["model", name]


def content(hub: Hub, path: str, branch: str = "main") -> bytes:
    blob = repo_of(hub).head(branch).tree[path]
    return hub.state.large[blob.sha256] if blob.content is None else blob.content


def test_every_byte_arrives_in_one_commit_to_a_private_repo(
    hub: Hub, proxy: Proxy, files: list[DeliveredFile]
) -> None:
    events: list[Event] = []
    delivered = deliver_to(proxy, files, on_event=events.append)
    for file in files:
        assert content(hub, file.name) == file.path.read_bytes()
    repo = repo_of(hub)
    assert repo.private
    _, commit = repo.branches["main"]  # the first is the Hub's own
    assert set(commit.changed) == {*(file.name for file in files), "manifest.json"}
    listed = json.loads(content(hub, "manifest.json"))["files"]
    assert {each["name"] for each in listed} == {file.name for file in files}
    assert dict(delivered.links)["cat.safetensors"].endswith("/me/cat/blob/main/cat.safetensors")
    last = [event for event in events if isinstance(event, Phase)][-1]
    assert last.done == last.total == (3 << 20) + 7 + 12


def test_a_second_delivery_sends_only_what_changed(
    hub: Hub, proxy: Proxy, files: list[DeliveredFile]
) -> None:
    deliver_to(proxy, files)
    assert deliver_to(proxy, files).put == ()
    files[1].path.write_bytes(b"a new text..")
    assert set(deliver_to(proxy, files).put) == {files[1].name, "manifest.json"}
    assert len(repo_of(hub).branches["main"]) == 3


def test_large_files_go_up_in_parts_where_the_hub_requires_it(
    hub: Hub, proxy: Proxy, files: list[DeliveredFile]
) -> None:
    hub.state.part_bytes = 1 << 20
    deliver_to(proxy, files)
    assert content(hub, "cat.safetensors") == files[0].path.read_bytes()
    assert any(sent.path.endswith("/complete") for sent in proxy.seen)


def test_a_folder_and_a_branch_of_a_repo(
    hub: Hub, proxy: Proxy, files: list[DeliveredFile], tmp_path: Path
) -> None:
    target = parse_destination("hf://me/cat/runs/a b?revision=new")
    deliver_to(proxy, files, target)
    assert content(hub, "runs/a b/cat.safetensors", "new") == files[0].path.read_bytes()
    store = store_at(proxy, target)
    assert store.names("", Deadline(20)) == (
        "cat.safetensors",
        "empty",
        "manifest.json",
        "notes/قطة.txt",
    )
    assert store.names("notes", Deadline(20)) == ("notes/قطة.txt",)
    assert store.read("notes/قطة.txt", Deadline(20)) == files[1].path.read_bytes()
    assert store.read("absent", Deadline(20)) is None
    store.fetch("cat.safetensors", tmp_path / "back" / "cat", Deadline(20))
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["cat"]
    assert (tmp_path / "back" / "cat").read_bytes() == files[0].path.read_bytes()
    store.delete(["cat.safetensors", "empty", "absent"], Deadline(20))
    assert store.names("", Deadline(20)) == ("manifest.json", "notes/قطة.txt")


def test_server_errors_and_cuts_are_tried_again(
    hub: Hub, proxy: Proxy, files: list[DeliveredFile]
) -> None:
    spoilt: dict[str, int] = {}

    def spoil(sent: SeenRequest) -> Spoil | None:
        kind = next((k for k in ("/commit/", "/large/", "/paths-info/") if k in sent.path), "")
        spoilt[kind] = spoilt.get(kind, 0) + 1
        if kind and spoilt[kind] == 1:
            return Spoil(status=500)
        return Spoil(cut=True) if kind == "/commit/" and spoilt[kind] == 2 else None

    proxy.fault = spoil
    deliver_to(proxy, files)
    assert content(hub, "cat.safetensors") == files[0].path.read_bytes()
    assert spoilt["/commit/"] == 3


def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    hub: Hub, proxy: Proxy, files: list[DeliveredFile]
) -> None:
    lost: list[SeenRequest] = []

    def lose(sent: SeenRequest) -> Spoil | None:
        if "/commit/" in sent.path and not lost:
            lost.append(sent)
            return Spoil(lose_answer=True)
        return None

    proxy.fault = lose
    deliver_to(proxy, files)
    assert lost
    assert len(repo_of(hub).branches["main"]) == 2


def test_another_commit_in_between_is_waited_for(
    hub: Hub, proxy: Proxy, files: list[DeliveredFile]
) -> None:
    refused: list[SeenRequest] = []

    def conflict(sent: SeenRequest) -> Spoil | None:
        if "/commit/" in sent.path and len(refused) < 2:
            refused.append(sent)
            return Spoil(status=412 if len(refused) == 1 else 429)
        return None

    proxy.fault = conflict
    deliver_to(proxy, files)
    assert len(refused) == 2


def test_a_hash_that_is_not_what_was_sent_is_never_called_delivered(
    hub: Hub, proxy: Proxy, files: list[DeliveredFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = hub.state.keep_large
    other = hashlib.sha256(b"other").hexdigest()

    def swap(digest: str, sent: bytes) -> None:
        store(digest, sent)
        hub.state.large[other] = b"other"

    monkeypatch.setattr(hub.state, "keep_large", swap)
    make = hub.state.commit

    def damaged(repo: Repo, branch: str, title: str, changes, gone):
        if blob := changes.get("cat.safetensors"):
            changes["cat.safetensors"] = type(blob)(size=blob.size, sha256=other)
        return make(repo, branch, title, changes, gone)

    monkeypatch.setattr(hub.state, "commit", damaged)
    with pytest.raises(DeliveryError, match="not what was sent"):
        deliver_to(proxy, files, seconds=3)


def test_a_hub_that_never_answers_ends_at_the_limit(
    proxy: Proxy, files: list[DeliveredFile]
) -> None:
    proxy.fault = lambda sent: Spoil(silent=True)
    store_at(proxy)  # loads the client library, which takes a second
    with pytest.raises(DeliveryError, match="no answer within 2 s"):
        deliver_to(proxy, files, seconds=2)


def test_check_makes_the_repo_private_and_leaves_no_commit(hub: Hub, proxy: Proxy) -> None:
    assert check(proxy) == ()
    assert repo_of(hub).private
    assert check(proxy) == ()
    assert len(repo_of(hub).branches["main"]) == 1
    assert any(sent.method == "PUT" and "/large/" in sent.path for sent in proxy.seen)


def test_check_makes_a_public_repo_only_where_requested_and_warns_of_a_public_one(
    hub: Hub, proxy: Proxy
) -> None:
    assert check(proxy, parse_destination("hf://club/open?public")) == ()
    assert not repo_of(hub, "club/open").private
    (problem,) = check(proxy, parse_destination("hf://club/open"))
    assert problem.level == "warning"
    assert "public" in problem.text


@pytest.mark.parametrize(
    ("token", "target", "says", "fix"),
    [
        (READER, "hf://me/cat", "may only read", "write access"),
        ("unknown-word", "hf://me/cat", "does not know this token", "HF_TOKEN"),
        (TOKEN, "hf://you/cat", "this token is of me", "hf://me/cat or hf://club/cat"),
    ],
)
def test_a_token_that_cannot_write_there_is_reported_before_training(
    proxy: Proxy, token: str, target: str, says: str, fix: str
) -> None:
    (problem,) = check(proxy, parse_destination(target), token)
    assert problem.level == "error"
    assert says in problem.text
    assert fix in problem.fix
    assert token not in str(problem)


def test_no_token_at_all_is_reported(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (problem,) = check_destinations([TARGET], secrets=Secrets(values={}), env=env(proxy))
    assert "no token" in problem.text


def test_a_full_storage_is_reported_before_training(hub: Hub, proxy: Proxy) -> None:
    hub.state.storage_limit = 10
    (problem,) = check(proxy)
    assert "storage there is full" in problem.text


def test_a_refused_delivery_hides_the_token(
    proxy: Proxy, files: list[DeliveredFile], capfd: pytest.CaptureFixture[str]
) -> None:
    headers = {"X-Error-Message": f"no right for {TOKEN}"}
    proxy.fault = lambda sent: Spoil(status=403, headers=headers)
    events: list[Event] = []
    with pytest.raises(DeliveryError) as raised:
        deliver_to(proxy, files, on_event=events.append)
    reported = str(raised.value) + "".join(event.to_json() for event in events)
    assert "access denied" in reported
    assert TOKEN not in reported + "".join(capfd.readouterr())
