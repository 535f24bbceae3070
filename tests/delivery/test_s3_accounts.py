"""S3 as accounts have it: profiles, roles, encrypted buckets, regions; checked before training."""

import hashlib
import os
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from urllib3 import HTTPResponse

sys.path.insert(0, str(Path(__file__).parent))

from servers.fault_proxy import Proxy, SeenRequest, Spoil, fault_proxy
from servers.s3_servers import KEY_ID, SECRET_KEY, moto_server, rclone_server, s3_client

from tenner.core.checksums import DeliveredFile
from tenner.core.errors import DeliveryError
from tenner.core.secrets import NO_SECRETS, Secrets
from tenner.runs.check_destinations import check_destinations
from tenner.runs.deliver import deliver
from tenner.storage.destination_address import parse_destination, parse_destinations
from tenner.storage.endpoint import find_endpoint
from tenner.storage.s3_client import open_client

SECRETS = Secrets(values={"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY})
BUCKET = "loras"


def make_bucket(port: int) -> None:
    s3_client(port).create_bucket(Bucket=BUCKET)


@pytest.fixture(scope="module")
def signed_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server that checks signatures."""
    with rclone_server(tmp_path_factory.mktemp("rclone")) as port:
        make_bucket(port)
        yield port


@pytest.fixture
def proxy(signed_port: int) -> Iterator[Proxy]:
    with fault_proxy(signed_port) as proxy:
        yield proxy


@pytest.fixture
def aws_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    (tmp_path / "config").write_text("[profile lab]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def at(port: int, options: str = "") -> str:
    return f"s3://{BUCKET}/run?endpoint_url=http://127.0.0.1:{port}{options}"


@pytest.mark.usefixtures("aws_files")
def test_a_profile_signs_with_its_own_keys(proxy: Proxy) -> None:
    target = parse_destination(at(proxy.port, "&profile=lab"))
    assert check_destinations([target], secrets=NO_SECRETS, env={}) == ()
    other = Secrets(values={"AWS_ACCESS_KEY_ID": "AKIA0", "AWS_SECRET_ACCESS_KEY": "wrong-word"})
    assert check_destinations([target], secrets=other, env={}) == ()
    by_env = parse_destination(at(proxy.port))
    assert check_destinations([by_env], secrets=NO_SECRETS, env={"AWS_PROFILE": "lab"}) == ()


@pytest.mark.usefixtures("aws_files")
@pytest.mark.parametrize(
    ("options", "secrets", "says", "fix"),
    [
        ("&profile=none", NO_SECRETS, "none", "profiles in ~/.aws/config"),
        ("", NO_SECRETS, "no keys", "AWS_ACCESS_KEY_ID"),
        (
            "",
            Secrets(values={"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": "wrong-word"}),
            "secret key does not belong",
            "letter for letter",
        ),
    ],
)
def test_wrong_accounts_are_reported_with_their_fix(
    proxy: Proxy, options: str, secrets: Secrets, says: str, fix: str
) -> None:
    target = parse_destination(at(proxy.port, options))
    (problem,) = check_destinations([target], secrets=secrets, env={})
    assert problem.level == "error"
    assert says in problem.text
    assert fix in problem.fix
    assert "wrong-word" not in str(problem)


def test_a_role_is_assumed(
    aws_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (aws_files / "config").write_text(
        "[profile lab]\nregion = us-east-1\n[profile role]\nregion = us-east-1\n"
        "role_arn = arn:aws:iam::123456789012:role/trainer\nsource_profile = lab\n"
    )
    with moto_server(tmp_path) as port, fault_proxy(port) as proxy:
        make_bucket(port)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{port}")
        target = parse_destination(at(proxy.port, "&profile=role"))
        assert check_destinations([target], secrets=NO_SECRETS, env={}) == ()
        keys = {sent.headers["Authorization"].split("Credential=")[1] for sent in proxy.seen}
    assert all(key.startswith("ASIA") for key in keys)


def test_an_etag_that_is_no_md5_is_answered_by_reading_back(proxy: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"weights" * 1000)
    proxy.fault = lambda sent: Spoil(head_etag='"' + "0" * 32 + '"')  # as with KMS
    target = parse_destination(at(proxy.port))
    files = [DeliveredFile(path=file, name="x.safetensors")]
    delivered = deliver(files, [target], secrets=SECRETS, env={})
    assert "x.safetensors" in delivered.at[0].put
    read_back = [
        seen_request
        for seen_request in proxy.seen
        if seen_request.method == "GET" and "x.saf" in seen_request.path
    ]
    assert len(read_back) == 1
    assert deliver(files, [target], secrets=SECRETS, env={}).at[0].put == ()


NEEDS_MD5 = (
    "<Error><Code>InvalidRequest</Code><Message>Content-MD5 OR x-amz-checksum- HTTP header is "
    "required for Put Object requests with Object Lock parameters</Message></Error>"
)


REFUSES = "<Error><Code>NotImplemented</Code><Message>A header is not implemented</Message></Error>"


@pytest.mark.parametrize("knows_checksums", [True, False])
def test_every_part_is_sent_with_a_sha256_that_the_server_checks(
    proxy: Proxy, tmp_path: Path, knows_checksums: bool
) -> None:
    """As a checksum (a bucket with object locks refuses parts without), else by its signature."""
    file = tmp_path / "x.safetensors"
    file.write_bytes(os.urandom((40 << 20) + 1))

    def fault(sent: SeenRequest) -> Spoil | None:
        has_checksum = any(name.lower().startswith("x-amz-checksum") for name in sent.headers)
        if has_checksum and not knows_checksums:
            return Spoil(status=501, body=REFUSES)
        if sent.method == "PUT" and knows_checksums and not has_checksum:
            return Spoil(status=400, body=NEEDS_MD5)
        return None

    proxy.fault = fault
    target = parse_destination(at(proxy.port))
    files = [DeliveredFile(path=file, name="x.safetensors")]
    delivered = deliver(files, [target], secrets=SECRETS, env={})
    assert delivered.at[0].put == ("x.safetensors", "manifest.json")
    done = [requested for requested in proxy.done if "partNumber" in requested.path]
    assert len(done) == 6  # each part once
    signed = {requested.headers["X-Amz-Content-SHA256"] for requested in done} - {
        "UNSIGNED-PAYLOAD"
    }
    assert len(signed) == (0 if knows_checksums else 6)


@pytest.mark.parametrize(
    ("endpoint", "signs", "sends"),
    [
        ("https://s3.example.com", False, "UNSIGNED-PAYLOAD"),
        ("https://s3.example.com", True, hashlib.sha256(b"part").hexdigest()),
        ("http://s3.example.com", False, hashlib.sha256(b"part").hexdigest()),
        ("http://127.0.0.1:9000", False, "UNSIGNED-PAYLOAD"),
        ("http://localhost:9000", True, hashlib.sha256(b"part").hexdigest()),
    ],
)
def test_a_part_is_signed_where_it_could_be_changed_on_the_way_or_the_server_requires_it(
    endpoint: str, signs: bool, sends: str
) -> None:
    client = open_client(
        parse_destination("s3://bucket"),
        find_endpoint("bucket", requested=endpoint, env={}),
        secrets=SECRETS,
        env={},
        signs_payload=signs,
    )
    seen: list[dict[str, bytes]] = []

    def instead_of_sending(request: Any, **more: Any) -> AWSResponse:
        seen.append(dict(request.headers))
        return AWSResponse(
            request.url, 200, {}, HTTPResponse(body=BytesIO(), preload_content=False)
        )

    client.meta.events.register("before-send.s3", instead_of_sending)
    client.upload_part(Bucket="bucket", Key="k", UploadId="u", PartNumber=1, Body=b"part")
    sent = seen[0]["X-Amz-Content-SHA256"]
    assert (sent.decode() if isinstance(sent, bytes) else sent) == sends


@pytest.mark.parametrize("status", [301, 400])
def test_a_bucket_in_another_region_is_reported_with_the_region(proxy: Proxy, status: int) -> None:
    code = "PermanentRedirect" if status == 301 else "AuthorizationHeaderMalformed"
    body = f"<Error><Code>{code}</Code><Message>m</Message><Region>eu-west-1</Region></Error>"
    headers = {"x-amz-bucket-region": "eu-west-1"}
    proxy.fault = lambda sent: Spoil(status=status, body=body, headers=headers)
    (problem,) = check_destinations([parse_destination(at(proxy.port))], secrets=SECRETS, env={})
    assert "another region" in problem.text
    assert "AWS_REGION=eu-west-1" in problem.fix


def test_several_destinations_each_get_the_whole_set(proxy: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"weights")
    texts = [at(proxy.port, "&links=1h"), f"file://{tmp_path}/a", f"file://{tmp_path}/b?optional"]
    (tmp_path / "b").write_text("in the way")
    targets, problems = parse_destinations(texts)
    assert problems == ()
    files = [DeliveredFile(path=file, name="x.safetensors")]
    delivered = deliver(files, targets, secrets=SECRETS, env={}, total_limit_seconds=20)
    assert [each.put for each in delivered.at] == [("x.safetensors", "manifest.json")] * 2
    assert "X-Amz-Signature" in dict(delivered.at[0].links)["x.safetensors"]
    assert len(delivered.problems) == 1
    required, _ = parse_destinations([*texts[:2], f"file://{tmp_path}/b"])
    with pytest.raises(DeliveryError):
        deliver(files, required, secrets=SECRETS, env={}, total_limit_seconds=5)
