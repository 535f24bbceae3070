"""Delivery to S3, with the real client, against four independent servers behind a fault proxy."""

import hashlib
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.fault_proxy import Proxy, SeenRequest, Spoil
from servers.s3_servers import KEY_ID, SECRET_KEY, s3_client

from tenner.core import checksums
from tenner.core.checksums import DeliveredFile, hash_file
from tenner.core.errors import DeliveryError
from tenner.core.events import Event
from tenner.core.retry import Deadline
from tenner.runs.check_destinations import check_destinations
from tenner.storage.destination import Destination
from tenner.storage.destination_address import parse_destination
from tenner.storage.opening import open_store
from tests.delivery.s3.s3_delivery import (
    BUCKET,
    SECRETS,
    deliver_to,
    error_xml,
    once,
    stored,
    wait_for,
)


def test_every_byte_arrives_and_is_verified(
    server_port: int, target: Destination, files: list[DeliveredFile]
) -> None:
    delivered = deliver_to(target, files)
    for file in files:
        assert stored(server_port, target, file.name) == file.path.read_bytes()
    listed = json.loads(stored(server_port, target, "manifest.json"))["files"]
    assert {each["name"] for each in listed} == {file.name for file in files}
    assert all("X-Amz-Signature" in link for _, link in delivered.links)
    assert deliver_to(target, files).put == ()


def test_manifest_is_the_last_thing_written(
    proxy: Proxy, target: Destination, files: list[DeliveredFile]
) -> None:
    deliver_to(target, files)
    written = [sent.path for sent in proxy.seen if sent.method in {"PUT", "POST"}]
    assert "manifest.json" in written[-1]


def test_files_are_on_their_way_while_they_are_hashed_and_the_manifest_waits(
    server_port: int,
    target: Destination,
    files: list[DeliveredFile],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrived = threading.Event()

    def hash_late(path: Path) -> tuple[int, str]:
        if path.name == "cat.safetensors":
            assert arrived.wait(60)
        return hash_file(path)

    monkeypatch.setattr(checksums, "hash_file", hash_late)
    with ThreadPoolExecutor() as pool:
        delivery = pool.submit(deliver_to, target, files)
        try:
            wait_for(server_port, target, "cat.safetensors")
            listed = s3_client(server_port).list_objects_v2(Bucket=BUCKET, Prefix=target.prefix)
            there = {each["Key"].rpartition("/")[2] for each in listed["Contents"]}
            assert "manifest.json" not in there
        finally:
            arrived.set()
        assert delivery.result().bytes_put > 20 << 20
    entries = json.loads(stored(server_port, target, "manifest.json"))["files"]
    hashed = {each["name"]: each["sha256"] for each in entries}
    assert hashed["cat.safetensors"] == hashlib.sha256(files[0].path.read_bytes()).hexdigest()


def test_servers_that_refuse_newer_checksum_headers_work(
    proxy: Proxy, target: Destination, files: list[DeliveredFile]
) -> None:
    def refuse(sent: SeenRequest) -> Spoil | None:
        names = {name.lower() for name in sent.headers}
        newer = any(n.startswith(("x-amz-checksum", "x-amz-sdk-checksum")) for n in names)
        trailer = "x-amz-trailer" in names
        return Spoil(status=501, body=error_xml("NotImplemented")) if newer or trailer else None

    proxy.fault = refuse
    assert deliver_to(target, files).bytes_put > 20 << 20


def test_server_errors_and_cuts_are_tried_again(
    server_port: int, proxy: Proxy, target: Destination, files: list[DeliveredFile]
) -> None:
    def spoil(sent: SeenRequest) -> Spoil | None:
        if sent.number % 7 == 2:
            return Spoil(status=500, body=error_xml("InternalError"))
        return Spoil(cut=True) if sent.number % 7 == 5 else None

    proxy.fault = spoil
    deliver_to(target, files)
    for file in files:
        assert stored(server_port, target, file.name) == file.path.read_bytes()


def test_a_size_that_is_wrong_once_is_requested_again(
    proxy: Proxy, target: Destination, files: list[DeliveredFile]
) -> None:
    wrong: list[SeenRequest] = []

    def lie(sent: SeenRequest) -> Spoil | None:
        put = any(seen.method == "PUT" and "empty" not in seen.path for seen in proxy.seen)
        if sent.method == "HEAD" and "cat" in sent.path and put and len(wrong) < 2:
            wrong.append(sent)
            return Spoil(head_size=100)
        return None

    proxy.fault = lie
    assert "cat.safetensors" in deliver_to(target, files).put
    assert len(wrong) == 2


@once
def test_a_size_that_stays_wrong_is_never_called_delivered(
    proxy: Proxy, target: Destination, files: list[DeliveredFile]
) -> None:
    proxy.fault = lambda sent: Spoil(head_size=5) if sent.method == "HEAD" else None
    with pytest.raises(DeliveryError) as raised:
        deliver_to(target, files[1:], seconds=4)
    assert "not what was sent" in str(raised.value)


@once
def test_a_server_that_never_answers_ends_at_the_limit(
    proxy: Proxy, target: Destination, files: list[DeliveredFile]
) -> None:
    proxy.fault = lambda sent: Spoil(silent=True)
    open_store(target, secrets=SECRETS, env={})  # loads the client library, which takes a second
    with pytest.raises(DeliveryError, match="no answer within 2 s"):
        deliver_to(target, files, seconds=2)


def test_access_denied_for_ever_is_given_up_soon_and_hides_the_keys(
    proxy: Proxy, target: Destination, files: list[DeliveredFile]
) -> None:
    body = error_xml("AccessDenied", f"no right for {KEY_ID} {SECRET_KEY}")
    proxy.fault = lambda sent: Spoil(status=403, body=body)
    events: list[Event] = []
    with pytest.raises(DeliveryError) as raised:
        deliver_to(target, files, on_event=events.append)
    reported = str(raised.value) + "".join(event.to_json() for event in events)
    assert "access denied" in reported
    assert KEY_ID not in reported
    assert SECRET_KEY not in reported
    (problem,) = check_destinations([target], secrets=SECRETS, env={})
    assert SECRET_KEY not in str(problem)


def test_check_leaves_nothing_behind(proxy: Proxy, target: Destination) -> None:
    assert check_destinations([target], secrets=SECRETS, env={}) == ()
    store = open_store(target, secrets=SECRETS, env={})
    assert store.names("", Deadline(10)) == ()


@pytest.mark.parametrize("server_port", ["moto", "rclone"], indirect=True)  # the third makes it
def test_check_names_a_missing_bucket(proxy: Proxy) -> None:
    absent = parse_destination(f"s3://not-there?endpoint_url=http://127.0.0.1:{proxy.port}")
    (problem,) = check_destinations([absent], secrets=SECRETS, env={})
    assert problem.level == "error"
    assert "bucket" in problem.text
    assert problem.fix
