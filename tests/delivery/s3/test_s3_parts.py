"""Large files in parts to S3, and back: interrupted, resumed, verified by the server's hashes."""

import base64
import os
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.fault_proxy import Proxy, SeenRequest, Spoil
from servers.s3_servers import s3_client

from tenner.core.checksums import DeliveredFile
from tenner.core.errors import DeliveryError
from tenner.core.retry import Deadline
from tenner.storage.destination import Destination
from tenner.storage.opening import open_store
from tests.delivery.s3.s3_delivery import (
    BUCKET,
    SECRETS,
    deliver_to,
    error_xml,
    is_part,
    once,
    stored,
    upload_id,
)


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
def test_an_upload_that_cannot_be_resumed_is_begun_anew(
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


def test_the_sha256_of_parts_is_the_proof_where_the_server_stores_it_else_the_object_is_read_back(
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
    stores_it = name == "seaweed"
    assert (
        bool([seen_request for seen_request in read_back if "uploads" not in seen_request.path])
        != stores_it
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
