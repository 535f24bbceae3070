"""Delivery to S3, with the real client, against four independent servers behind a fault proxy."""

import base64
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from servers.fault_proxy import Proxy, SeenRequest, Spoil, fault_proxy
from servers.s3_servers import (
    KEY_ID,
    SECRET_KEY,
    localbucket_server,
    make_used_bucket,
    moto_server,
    rclone_server,
    s3_client,
    seaweed_server,
)

from tenner.core import checksums as sealing
from tenner.core.checksums import DeliveredFile, hash_file
from tenner.core.errors import DeliveryError
from tenner.core.events import Event
from tenner.core.retry import Deadline
from tenner.core.secrets import Secrets
from tenner.runs.check_destinations import check_destinations
from tenner.runs.deliver import deliver
from tenner.storage.destination import Destination
from tenner.storage.destination_address import parse_destination
from tenner.storage.opening import open_store

SECRETS = Secrets(values={"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY})
SERVERS = {
    "moto": moto_server,
    "rclone": rclone_server,
    "seaweed": seaweed_server,
    "localbucket": localbucket_server,
}
BUCKET = "loras"
once = pytest.mark.parametrize("server_port", ["moto"], indirect=True)
"""For what the proxy alone answers: it is the same before each server."""


@pytest.fixture(scope="module", params=sorted(SERVERS))
def server_port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as port:
        make_used_bucket(port, BUCKET)
        yield port


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The server's."""
    return request.node.callspec.params["server_port"]


@pytest.fixture
def proxy(server_port: int) -> Iterator[Proxy]:
    with fault_proxy(server_port) as proxy:
        yield proxy


@pytest.fixture
def target(proxy: Proxy, tmp_path: Path) -> Destination:
    prefix = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
    return parse_destination(
        f"s3://{BUCKET}/{prefix}?endpoint_url=http://127.0.0.1:{proxy.port}&links=1h"
    )


@pytest.fixture
def files(tmp_path: Path) -> list[DeliveredFile]:
    made = []
    for name, size in (("cat.safetensors", (20 << 20) + 7), ("notes/قطة.txt", 12), ("empty", 0)):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        made.append(DeliveredFile(path=path, name=name))
    return made


def stored(port: int, target: Destination, name: str) -> bytes:
    key = target.name_in_root(name)
    return s3_client(port).get_object(Bucket=BUCKET, Key=key)["Body"].read()


def wait_for(port: int, target: Destination, name: str) -> None:
    key = target.name_in_root(name)
    s3_client(port).get_waiter("object_exists").wait(
        Bucket=BUCKET, Key=key, WaiterConfig={"Delay": 0.2, "MaxAttempts": 150}
    )


def deliver_to(target: Destination, files: list[DeliveredFile], seconds: float = 60, **more):
    return deliver(
        files, [target], secrets=SECRETS, env={}, total_limit_seconds=seconds, **more
    ).at[0]


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

    monkeypatch.setattr(sealing, "hash_file", hash_late)
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


def test_a_size_that_lies_once_is_looked_at_again(
    proxy: Proxy, target: Destination, files: list[DeliveredFile]
) -> None:
    lies: list[SeenRequest] = []

    def lie(sent: SeenRequest) -> Spoil | None:
        put = any(seen.method == "PUT" and "empty" not in seen.path for seen in proxy.seen)
        if sent.method == "HEAD" and "cat" in sent.path and put and len(lies) < 2:
            lies.append(sent)
            return Spoil(head_size=100)
        return None

    proxy.fault = lie
    assert "cat.safetensors" in deliver_to(target, files).put
    assert len(lies) == 2


@once
def test_a_size_that_lies_for_ever_is_never_called_delivered(
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


def lists_uploads(name: str) -> bool:
    """Whether the server can say which uploads were begun: else a cut one begins again."""
    return name != "localbucket"


def test_parts_that_arrived_are_not_sent_again(
    server_port: int, proxy: Proxy, target: Destination, files: list[DeliveredFile], name: str
) -> None:
    deadline = Deadline(60)

    def only_two_parts(sent: SeenRequest) -> Spoil | None:
        if not is_part(sent, 3):
            return None
        if all(any(is_part(done, part) for done in proxy.done) for part in (1, 2)):
            deadline.cancel()
        return Spoil(status=503, body=error_xml("SlowDown"))

    proxy.fault = only_two_parts
    with pytest.raises(DeliveryError):
        deliver_to(target, files[:1], deadline=deadline)
    before = len(proxy.seen)
    proxy.fault = lambda sent: None
    deliver_to(target, files[:1])
    sent = [
        seen_request.path
        for seen_request in proxy.seen[before:]
        if "partNumber=" in seen_request.path
    ]
    again = {1, 2, 3} - ({1, 2} if lists_uploads(name) else set())
    assert {parse_qs(urlsplit(path).query)["partNumber"][0] for path in sent} == set(
        map(str, again)
    )
    assert len(sent) == len(again)
    assert stored(server_port, target, "cat.safetensors") == files[0].path.read_bytes()


@pytest.mark.parametrize("answer", [(404, "NoSuchUpload"), (400, "InvalidRequest")])
def test_an_upload_that_cannot_be_gone_on_with_is_begun_anew(
    server_port: int,
    proxy: Proxy,
    target: Destination,
    files: list[DeliveredFile],
    answer: tuple[int, str],
    name: str,
) -> None:
    deadline = Deadline(60)

    def no_third_part(sent: SeenRequest) -> Spoil | None:
        if not is_part(sent, 3):
            return None
        deadline.cancel()
        return Spoil(status=503, body=error_xml("SlowDown"))

    proxy.fault = no_third_part
    with pytest.raises(DeliveryError):
        deliver_to(target, files[:1], deadline=deadline)
    (old,) = {
        upload_id(seen_request) for seen_request in proxy.seen if "partNumber=" in seen_request.path
    }
    spoilt = Spoil(status=answer[0], body=error_xml(answer[1]))
    proxy.fault = lambda sent: spoilt if sent.method == "PUT" and upload_id(sent) == old else None
    before = len(proxy.seen)
    deliver_to(target, files[:1])
    new = {
        upload_id(seen_request)
        for seen_request in proxy.seen[before:]
        if "partNumber=" in seen_request.path
    }
    assert len(new - {old}) == 1
    assert stored(server_port, target, "cat.safetensors") == files[0].path.read_bytes()
    if lists_uploads(name):
        found = s3_client(server_port).list_multipart_uploads(Bucket=BUCKET, Prefix=target.prefix)
        assert not found.get("Uploads")


def test_a_server_that_keeps_the_sha256_of_parts_is_taken_by_it_and_another_is_read_back(
    server_port: int, proxy: Proxy, target: Destination, files: list[DeliveredFile], name: str
) -> None:
    proxy.fault = lambda sent: Spoil(head_etag='"' + "0" * 32 + '-3"')  # as with KMS
    deliver_to(target, files[:1])
    parts = [seen_request for seen_request in proxy.seen if "partNumber=" in seen_request.path]
    assert (
        len(
            [
                seen_request
                for seen_request in parts
                if "x-amz-checksum-sha256" in seen_request.headers
            ]
        )
        == 3
    )
    read_back = [
        seen_request
        for seen_request in proxy.seen
        if seen_request.method == "GET" and "cat." in seen_request.path
    ]
    keeps_it = name == "seaweed"
    assert (
        bool([seen_request for seen_request in read_back if "uploads" not in seen_request.path])
        != keeps_it
    )
    there = s3_client(server_port).list_objects_v2(Bucket=BUCKET, Prefix=target.prefix)
    assert there["KeyCount"] == 2, "nothing is sent only to find out"


@pytest.mark.parametrize("server_port", ["seaweed"], indirect=True)
def test_an_upload_of_a_part_that_the_server_names_otherwise_does_not_end_with_it(
    server_port: int, proxy: Proxy, target: Destination, files: list[DeliveredFile]
) -> None:
    spoilt: list[SeenRequest] = []

    def other_hash(sent: SeenRequest) -> Spoil | None:
        if "partNumber=2" in sent.path and not spoilt:
            spoilt.append(sent)
            return Spoil(sha256=base64.b64encode(bytes(32)).decode())
        return None

    proxy.fault = other_hash
    deliver_to(target, files[:1])
    ends = [
        seen_request
        for seen_request in proxy.seen
        if seen_request.method == "POST" and "uploadId" in seen_request.path
    ]
    assert len(ends) > 1
    assert stored(server_port, target, "cat.safetensors") == files[0].path.read_bytes()


def is_part(sent: SeenRequest, number: int) -> bool:
    return sent.method == "PUT" and f"partNumber={number}" in sent.path


def upload_id(sent: SeenRequest) -> str:
    return parse_qs(urlsplit(sent.path).query).get("uploadId", [""])[0]


def test_a_part_that_is_cut_is_sent_again(
    server_port: int, proxy: Proxy, target: Destination, files: list[DeliveredFile]
) -> None:
    cut: list[SeenRequest] = []

    def once_each(sent: SeenRequest) -> Spoil | None:
        """Twice in a row, since the client library itself tries once more."""
        for number in (1, 2, 3):
            if is_part(sent, number) and sum(is_part(old, number) for old in cut) < 2:
                cut.append(sent)
                return Spoil(cut=True)
        return None

    proxy.fault = once_each
    deliver_to(target, files[:1])
    assert len(cut) == 6
    assert stored(server_port, target, "cat.safetensors") == files[0].path.read_bytes()


def test_a_file_that_shrinks_on_its_way_is_named_and_not_called_delivered(
    proxy: Proxy, target: Destination, files: list[DeliveredFile]
) -> None:
    def shrink(sent: SeenRequest) -> None:
        if sent.method == "POST" and "uploads" in sent.path:
            os.truncate(files[0].path, 1 << 20)

    proxy.fault = shrink
    with pytest.raises(DeliveryError, match=r"changed while it was delivered|became shorter"):
        deliver_to(target, files[:1], seconds=5)


@once
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


def test_a_cut_download_resumes(
    proxy: Proxy, target: Destination, files: list[DeliveredFile], tmp_path: Path
) -> None:
    deliver_to(target, files[:1])
    before = len(proxy.seen)
    cut: list[SeenRequest] = []

    def cut_once(sent: SeenRequest) -> Spoil | None:
        if sent.method == "GET" and not cut:
            cut.append(sent)
            return Spoil(cut=True)
        return None

    proxy.fault = cut_once
    store = open_store(target, secrets=SECRETS, env={})
    store.fetch("cat.safetensors", tmp_path / "back", Deadline(60))
    assert (tmp_path / "back").read_bytes() == files[0].path.read_bytes()
    ranges = [
        seen_request.headers.get("Range")
        for seen_request in proxy.seen[before:]
        if seen_request.method == "GET"
    ]
    assert ranges[0] is None
    assert ranges[-1] not in {None, "bytes=0-"}


def error_xml(code: str, message: str = "spoilt") -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
