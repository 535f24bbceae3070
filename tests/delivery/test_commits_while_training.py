"""What a run sends to the Hub while it trains: one commit for a checkpoint and what is with it."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from servers.hub_server import Hub, hub_server
from servers.hub_state import Account, Commit

from tenner.core.event_log import EventLog
from tenner.core.events import Checkpoint, Event, Phase, Sent, StateSaved, Warned
from tenner.core.files import write_atomically
from tenner.core.run_dir import RunDir
from tenner.core.secrets import Secrets
from tenner.runs.ledger import Ledger
from tenner.runs.remote_run import RemoteRun
from tenner.runs.upload_queue import UploadPolicy
from tenner.runs.uploader import DestinationUploader
from tenner.storage.destination_address import parse_destination

TOKEN = "loopback-write-word"
# The Hub's client library gives its uploads to its HTTP library in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        hub.state.tokens[TOKEN] = Account("me")
        yield hub


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "ali reza" / "output" / "cat").create()
    write_atomically(run_dir.ledger, Ledger(output_name="cat").to_json())
    return run_dir


@contextlib.contextmanager
def uploader_to(
    hub: Hub, run_dir: RunDir, events: list[Event], **waits: float
) -> Iterator[DestinationUploader]:
    secrets = Secrets(values={"HF_TOKEN": TOKEN})
    environ = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.port}"}
    remote = RemoteRun(parse_destination("hf://me/cat"), "cat", secrets, environ)
    policy = UploadPolicy(keep_states=1, in_sets=True, **waits)
    uploader = DestinationUploader(remote, run_dir, policy, on_event=events.append)
    uploader.start()
    try:
        yield uploader
    finally:
        uploader.close()


def saved(run_dir: RunDir, step: int) -> tuple[Path, Path]:
    weights = run_dir.checkpoints / f"cat-{step:06d}.safetensors"
    weights.write_bytes(os.urandom(1000))
    state = run_dir.state / f"step-{step:08d}"
    state.mkdir()
    (state / "tensors.safetensors").write_bytes(os.urandom(3000))
    return weights, state


def commits(hub: Hub) -> list[Commit]:
    return hub.state.repos["model", "me/cat"].branches["main"][1:]  # the first is the Hub's own


def wait_for_sent(events: list[Event], steps: set[int]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        sent = {event.step for event in events if isinstance(event, Sent) and event.what == "state"}
        if steps <= sent:
            return
        time.sleep(0.02)
    raise AssertionError(events)


def test_a_checkpoint_its_state_and_the_notes_are_one_commit_and_the_older_state_goes_with_it(
    hub: Hub, run_dir: RunDir
) -> None:
    events: list[Event] = []
    with uploader_to(hub, run_dir, events) as uploader:
        for number, step in enumerate((10, 20, 30), start=1):
            weights, state = saved(run_dir, step)
            uploader.note()
            uploader.take_checkpoint(weights, f"checkpoints/{weights.name}", step)
            time.sleep(0.2)  # a trainer writes the state after the weights
            uploader.take_state(state, step)
            wait_for_sent(events, {step})
            assert len(commits(hub)) == number
    assert [type(event) for event in events] == [Sent] * 6
    tree = commits(hub)[-1].tree
    assert {name for name in tree if name.startswith("checkpoints/")} == {
        f"checkpoints/cat-{step:06d}.safetensors" for step in (10, 20, 30)
    }
    states = {name.split("/")[3] for name in tree if name.startswith(".tenner/cat/state/")}
    assert [state[:13] for state in states] == ["step-00000030"]
    assert ".tenner/cat/ledger.json" in tree


def test_a_checkpoint_without_a_state_waits_no_longer_than_the_policy_allows(
    hub: Hub, run_dir: RunDir
) -> None:
    events: list[Event] = []
    with uploader_to(hub, run_dir, events, gather_seconds=0.5) as uploader:
        uploader.note()  # alone it waits for company
        weights, _ = saved(run_dir, 10)
        uploader.take_checkpoint(weights, "checkpoints/cat-000010.safetensors", 10)
        until = time.monotonic() + 30
        while not events and time.monotonic() < until:
            time.sleep(0.02)
    (commit,) = commits(hub)
    assert "checkpoints/cat-000010.safetensors" in commit.changed


def test_in_a_hurry_everything_that_waits_is_sent_notes_too(hub: Hub, run_dir: RunDir) -> None:
    events: list[Event] = []
    with uploader_to(hub, run_dir, events, pause_seconds=600) as uploader:
        weights, state = saved(run_dir, 10)
        uploader.take_checkpoint(weights, "checkpoints/cat-000010.safetensors", 10)
        uploader.take_state(state, 10)
        wait_for_sent(events, {10})
        weights, state = saved(run_dir, 20)
        uploader.take_checkpoint(weights, "checkpoints/cat-000020.safetensors", 20)
        uploader.take_state(state, 20)
        uploader.note()
        until = time.monotonic() + 30
        uploader.hurry(until)
        assert uploader.wait(until)
    assert len(commits(hub)) == 2


def test_the_events_that_are_delivered_hold_no_path_of_this_machine(
    hub: Hub, run_dir: RunDir, tmp_path: Path
) -> None:
    events: list[Event] = []
    weights, state = saved(run_dir, 10)
    with EventLog(run_dir.events) as log:
        log.append(Phase(name="dataset", detail="/data/ali reza's photos"))
        log.append(Phase(name="delivering", detail=f"file://{tmp_path}/out, s3://cats/ali"))
        log.append(Checkpoint(path=str(weights), step=10, epoch=1))
        log.append(StateSaved(path=str(state), step=10, epoch=1))
        log.append(Warned(text="/home/reza/photos/a.png (and /mnt/reza/b.png): cut", fix="look"))
    with uploader_to(hub, run_dir, events) as uploader:
        uploader.take_checkpoint(weights, "checkpoints/cat-000010.safetensors", 10)
        uploader.take_state(state, 10)
        wait_for_sent(events, {10})
    content = commits(hub)[-1].tree[".tenner/cat/events.jsonl"].content
    assert content is not None
    lines = [json.loads(each) for each in content.splitlines()]
    assert [each.get("detail") or each.get("path") or each["text"] for each in lines] == [
        "…/ali reza's photos",
        "…/out, s3://cats/ali",
        "checkpoints/cat-000010.safetensors",
        "state/step-00000010",
        "~/photos/a.png (and …/b.png): cut",
    ]
    assert str(tmp_path) not in content.decode()
    assert str(tmp_path) in run_dir.events.read_text()  # the log that stays here tells all
