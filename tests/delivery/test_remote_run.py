"""A run's states and files at a destination while it trains: complete, or not seen at all."""

import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from remote_files import put_checkpoint, put_state
from servers.fault_proxy import Proxy, SeenRequest, Spoil, fault_proxy
from servers.hub_server import hub_server
from servers.hub_state import Account
from servers.s3_servers import KEY_ID, SECRET_KEY, moto_server, rclone_server, s3_client

from tenner.core.checksums import DeliveredFile
from tenner.core.errors import DeliveryError
from tenner.core.retry import Deadline
from tenner.core.secrets import Secrets
from tenner.runs.deliver import deliver
from tenner.runs.remote_run import RemoteRun
from tenner.storage.destination import Destination
from tenner.storage.destination_address import parse_destination
from tenner.storage.opening import open_store
from tenner.storage.store import Store

TOKEN = "loopback-write-word"
KEYS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "HF_TOKEN": TOKEN}
SECRETS = Secrets(values=KEYS)
BUCKET = "loras"
SERVERS = {"moto": moto_server, "rclone": rclone_server}
# The Hub's client library gives its uploads to its HTTP library in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@dataclass(frozen=True)
class RemoteKind:
    destination: Destination
    proxy: Proxy | None = None
    env: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return open_store(self.destination, secrets=SECRETS, env=self.env)

    def run(self, job: str = "cat", **more: float) -> RemoteRun:
        return RemoteRun(self.destination, job, SECRETS, self.env, **more)

    def names(self) -> tuple[str, ...]:
        return self.store.names("", Deadline(10))


@pytest.fixture(scope="module", params=["folder", "hub", *sorted(SERVERS)])
def server_port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    if request.param == "folder":
        yield 0
        return
    if request.param == "hub":
        with hub_server() as hub:
            hub.state.tokens[TOKEN] = Account("me")
            yield hub.port
        return
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as port:
        s3_client(port).create_bucket(Bucket=BUCKET)
        yield port


@pytest.fixture
def remote(
    request: pytest.FixtureRequest, server_port: int, tmp_path: Path
) -> Iterator[RemoteKind]:
    if not server_port:
        yield RemoteKind(parse_destination(f"file://{tmp_path}/out"))
        return
    prefix = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
    with fault_proxy(server_port) as proxy:
        if request.node.callspec.params["server_port"] == "hub":
            env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
            yield RemoteKind(parse_destination(f"hf://me/{prefix}"), proxy, env)
            return
        text = f"s3://{BUCKET}/{prefix}?endpoint_url=http://127.0.0.1:{proxy.port}"
        yield RemoteKind(parse_destination(text), proxy)


def state_folder(path: Path, content: bytes = b"") -> Path:
    (path / "optim").mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    (path / "optim" / "قطة.bin").write_bytes(content or os.urandom(9 << 20))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_state_comes_back_on_another_machine_byte_for_byte(
    remote: RemoteKind, tmp_path: Path
) -> None:
    sent = state_folder(tmp_path / "state")
    put_state(remote.run(), sent, 120)
    (found,) = remote.run().states()
    assert (found.step, found.num_bytes) == (120, (9 << 20) + 2)
    remote.run().fetch_state(found, tmp_path / "deep" / "back")
    assert tree(tmp_path / "deep" / "back") == tree(sent)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["back"]


def test_the_newest_comes_first_and_jobs_do_not_mix(remote: RemoteKind, tmp_path: Path) -> None:
    for step in (20, 100, 30):
        put_state(remote.run(), state_folder(tmp_path / str(step), b"%d" % step), step)
    put_state(remote.run("a/ b.."), state_folder(tmp_path / "other", b"o"), 500)
    assert [state.step for state in remote.run().states()] == [100, 30, 20]
    assert [state.step for state in remote.run("a/ b..").states()] == [500]
    assert remote.run("dog").states() == ()


def test_two_states_of_one_step_do_not_replace_each_other(
    remote: RemoteKind, tmp_path: Path
) -> None:
    first = put_state(remote.run(), state_folder(tmp_path / "a", b"first"), 5)
    second = put_state(remote.run(), state_folder(tmp_path / "b", b"second"), 5)
    assert {state.name for state in remote.run().states()} == {first.name, second.name}
    remote.run().fetch_state(first, tmp_path / "back")
    assert tree(tmp_path / "back") == tree(tmp_path / "a")


def test_a_state_without_its_mark_or_with_a_file_gone_is_not_seen(
    remote: RemoteKind, tmp_path: Path
) -> None:
    names: list[str] = []
    for step in (1, 2, 3):
        state = put_state(remote.run(), state_folder(tmp_path / str(step), b"%d" % step), step)
        names.append(f".tenner/cat/state/{state.name}")
    remote.store.delete([f"{names[2]}/complete.json"], Deadline(10))
    remote.store.delete([f"{names[1]}/files/optim/قطة.bin"], Deadline(10))
    assert [state.step for state in remote.run().states()] == [1]


@pytest.mark.parametrize("server_port", sorted(SERVERS), indirect=True)
def test_an_upload_that_is_cut_before_its_end_is_not_seen_and_resumes(
    remote: RemoteKind, tmp_path: Path
) -> None:
    assert remote.proxy is not None
    sent = state_folder(tmp_path / "state")
    run = remote.run()

    def cut_at_its_mark(sent: SeenRequest) -> Spoil | None:
        if sent.method != "PUT" or "complete.json" not in sent.path:
            return None
        run.cancel()
        return Spoil(status=500)

    remote.proxy.fault = cut_at_its_mark
    with pytest.raises(DeliveryError):
        put_state(run, sent, 7)
    assert remote.run().states() == ()
    before = len(remote.proxy.seen)
    remote.proxy.fault = lambda sent: None
    put_state(remote.run(), sent, 7)
    put = [each.path for each in remote.proxy.seen[before:] if each.method == "PUT"]
    assert [path.rpartition("/")[2].partition("?")[0] for path in put] == ["complete.json"]
    assert [state.step for state in remote.run().states()] == [7]


@pytest.mark.parametrize("server_port", ["hub"], indirect=True)
def test_on_the_hub_a_state_comes_and_goes_in_one_commit(
    remote: RemoteKind, tmp_path: Path
) -> None:
    assert remote.proxy is not None
    put_state(remote.run(), state_folder(tmp_path / "state"), 7)
    remote.run().drop_states(0)
    commits = [sent for sent in remote.proxy.seen if "/commit/" in sent.path]
    assert len(commits) == 2


def test_a_damaged_state_is_refused_and_leaves_nothing(remote: RemoteKind, tmp_path: Path) -> None:
    state = put_state(remote.run(), state_folder(tmp_path / "state", b"as it was"), 7)
    changed = tmp_path / "changed"
    changed.write_bytes(b"as it is!")
    name = f".tenner/cat/state/{state.name}/files/optim/قطة.bin"
    other = remote.run("x")
    put_checkpoint(other, changed, name)
    with pytest.raises(DeliveryError, match="damaged") as raised:
        remote.run().fetch_state(state, tmp_path / "back")
    assert raised.value.problems[0].fix
    assert not (tmp_path / "back").exists()


def test_nothing_is_fetched_over_a_folder_that_is_there(remote: RemoteKind, tmp_path: Path) -> None:
    state = put_state(remote.run(), state_folder(tmp_path / "state", b"x"), 7)
    with pytest.raises(DeliveryError, match="there already"):
        remote.run().fetch_state(state, tmp_path / "state")
    assert (tmp_path / "state" / "optim" / "قطة.bin").read_bytes() == b"x"


def test_dropping_keeps_the_newest_and_a_younger_upload_under_way(
    remote: RemoteKind, tmp_path: Path
) -> None:
    made = {
        step: put_state(remote.run(), state_folder(tmp_path / str(step), b"%d" % step), step)
        for step in (1, 2, 3, 4, 5)
    }
    for unfinished in (1, 5):
        mark = f".tenner/cat/state/{made[unfinished].name}/complete.json"
        remote.store.delete([mark], Deadline(10))
    remote.run().drop_states(2)
    left = {name.split("/")[3] for name in remote.names() if name != ".gitattributes"}
    assert left == {made[step].name for step in (3, 4, 5)}
    remote.run().drop_states(0)
    assert set(remote.names()) <= {".gitattributes"}


def test_small_files_are_replaced_and_read_back(remote: RemoteKind, tmp_path: Path) -> None:
    run, ledger = remote.run(), tmp_path / "ledger.json"
    assert run.get_file("ledger.json") is None
    for content in (b'{"step": 1}', b'{"step": 2}'):
        ledger.write_bytes(content)
        run.put_file("ledger.json", ledger)
        assert remote.run().get_file("ledger.json") == content
    with pytest.raises(DeliveryError, match="cannot read"):
        run.put_file("ledger.json", tmp_path / "gone")


def test_a_checkpoint_sent_early_is_not_sent_again_by_the_delivery(
    remote: RemoteKind, tmp_path: Path
) -> None:
    weights = tmp_path / "cat-000002.safetensors"
    weights.write_bytes(os.urandom(9 << 20))
    assert put_checkpoint(remote.run(), weights) == "checkpoints/cat-000002.safetensors"
    file = DeliveredFile(path=weights, name="checkpoints/cat-000002.safetensors")
    (at,) = deliver([file], [remote.destination], secrets=SECRETS, env=remote.env).at
    assert at.put == ("manifest.json",)

    weights.write_bytes(b"of another life")  # the complete set must not be called whole any more
    put_checkpoint(remote.run(), weights)
    assert set(remote.names()) - {".gitattributes"} == {"checkpoints/cat-000002.safetensors"}


def test_a_mark_that_points_outside_its_folder_is_not_believed(tmp_path: Path) -> None:
    remote = RemoteKind(parse_destination(f"file://{tmp_path}/out"))
    state = put_state(remote.run(), state_folder(tmp_path / "state", b"x"), 7)
    mark = tmp_path / "out/.tenner/cat/state" / state.name / "complete.json"
    (mark.parent / "evil").write_text("x")
    mark.write_text('{"files": [{"name": "../evil", "size": 1, "sha256": "0"}]}')
    assert remote.run().states() == ()


def test_every_call_ends_at_its_limit(tmp_path: Path) -> None:
    with fault_proxy(9) as proxy:
        proxy.fault = lambda sent: Spoil(silent=True)
        text = f"s3://{BUCKET}?endpoint_url=http://127.0.0.1:{proxy.port}"
        run = RemoteRun(parse_destination(text), "cat", SECRETS, {}, limit_seconds=1.5)
        open_store(run.destination, secrets=SECRETS, env={})  # loads the client library first
        small = tmp_path / "small"
        small.write_text("x")
        for call in (
            run.states,
            lambda: put_checkpoint(run, small),
            lambda: put_state(run, state_folder(tmp_path / "state", b"x"), 1),
            lambda: run.get_file("x"),
        ):
            start = time.monotonic()
            with pytest.raises(DeliveryError, match=r"no answer|time limit"):
                call()
            assert time.monotonic() - start < 15


def test_a_call_under_way_can_be_cancelled() -> None:
    with fault_proxy(9) as proxy:
        proxy.fault = lambda sent: Spoil(silent=True)
        text = f"s3://{BUCKET}?endpoint_url=http://127.0.0.1:{proxy.port}"
        run = RemoteRun(parse_destination(text), "cat", SECRETS, {})
        timer = threading.Timer(0.5, run.cancel)
        timer.start()
        start = time.monotonic()
        with pytest.raises(DeliveryError):
            run.states()
        assert time.monotonic() - start < 5
        timer.join()


def test_what_is_refused_is_reported_without_the_keys(tmp_path: Path) -> None:
    body = f"<Error><Code>AccessDenied</Code><Message>{SECRET_KEY} {KEY_ID}</Message></Error>"
    reported: list[str] = []
    with fault_proxy(9) as proxy:
        proxy.fault = lambda sent: Spoil(status=403, body=body)
        text = f"s3://{BUCKET}?endpoint_url=http://127.0.0.1:{proxy.port}"
        run = RemoteRun(parse_destination(text), "cat", SECRETS, {}, on_trouble=reported.append)
        with pytest.raises(DeliveryError, match="access denied") as raised:
            run.states()
    assert reported
    assert not any(key in str(raised.value) + str(reported) for key in (SECRET_KEY, KEY_ID))
