"""What an S3 server's troubles are called, how soon they are reported, and what is tried again."""

import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from servers.fault_proxy import Proxy, SeenRequest, Spoil, fault_proxy
from servers.s3_servers import KEY_ID, SECRET_KEY, moto_server, s3_client

from tenner.core.checksums import DeliveredFile
from tenner.core.errors import DeliveryError
from tenner.core.events import Event, Warned
from tenner.core.secrets import Secrets
from tenner.runs.check_destinations import check_destinations
from tenner.runs.deliver import deliver
from tenner.storage.destination_address import parse_destination
from tenner.storage.progress import Repeats

SECRETS = Secrets(values={"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY})
BUCKET = "loras"


def xml(code: str, message: str = "") -> str:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with moto_server(tmp_path_factory.mktemp("moto")) as port:
        s3_client(port).create_bucket(Bucket=BUCKET)
        yield port


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    with fault_proxy(port) as proxy:
        yield proxy


def files(tmp_path: Path, count: int) -> list[DeliveredFile]:
    made: list[DeliveredFile] = []
    for number in range(count):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(os.urandom(1000))
        made.append(DeliveredFile(path=path, name=f"{number}.bin"))
    return made


@pytest.mark.parametrize(
    ("status", "code", "message", "says", "fix"),
    [
        (507, "InsufficientStorage", "no room", "storage there is full", "free space"),
        (403, "QuotaExceeded", "quota reached", "storage there is full", "free space"),
        (400, "XMinioAdminBucketQuotaExceeded", "", "storage there is full", "free space"),
        (403, "AccessDenied", "Storage cap exceeded", "storage there is full", "free space"),
        (400, "ExpiredToken", "The provided token has expired.", "expired", "fresh keys"),
        (403, "AccessDenied", "no", "access denied to PutObject", "need s3:PutObject there"),
        (409, "Odd", "what is this", "409 Odd: what is this", "the server's own error"),
    ],
)
def test_each_refusal_is_named_with_its_own_fix_and_soon(
    proxy: Proxy, tmp_path: Path, status: int, code: str, message: str, says: str, fix: str
) -> None:
    """HEAD and DELETE answer as ever; what is written is refused, as a full server does."""
    proxy.fault = lambda sent: (
        Spoil(status=status, body=xml(code, message)) if sent.method == "PUT" else None
    )
    target = parse_destination(f"s3://{BUCKET}/x?endpoint_url=http://127.0.0.1:{proxy.port}")
    started = time.monotonic()
    with pytest.raises(DeliveryError) as refused:
        deliver(files(tmp_path, 2), [target], secrets=SECRETS, env={})
    assert time.monotonic() - started < 60, "no 130 s of silence"
    assert says in refused.value.problems[0].text
    assert fix in refused.value.problems[0].fix


def test_a_token_that_ran_out_is_named_although_head_has_no_words(
    proxy: Proxy, tmp_path: Path
) -> None:
    def fault(sent: SeenRequest) -> Spoil:
        body = "" if sent.method == "HEAD" else xml("ExpiredToken", "The token has expired.")
        return Spoil(status=400, body=body)

    proxy.fault = fault
    target = parse_destination(f"s3://{BUCKET}/x?endpoint_url=http://127.0.0.1:{proxy.port}")
    with pytest.raises(DeliveryError) as refused:
        deliver(files(tmp_path, 2), [target], secrets=SECRETS, env={})
    assert "the keys have expired" in refused.value.problems[0].text
    assert "fresh keys" in refused.value.problems[0].fix


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_small_files_arrive_though_the_server_answers_slow_down(
    proxy: Proxy, tmp_path: Path, share: float
) -> None:
    """Each request is tried again by itself, so that one refusal costs one request."""
    chance = random.Random(int(share * 10))
    answered: dict[str, int] = {}

    def fault(sent: SeenRequest) -> Spoil | None:
        if chance.random() < share:
            return Spoil(status=503, body="" if sent.method == "HEAD" else xml("SlowDown", "slow"))
        if sent.method == "PUT":
            answered[sent.path] = answered.get(sent.path, 0) + 1
        return None

    proxy.fault = fault
    target = parse_destination(f"s3://{BUCKET}/{share}?endpoint_url=http://127.0.0.1:{proxy.port}")
    events: list[Event] = []
    sent = files(tmp_path, 8)
    deliver(sent, [target], secrets=SECRETS, env={}, on_event=events.append)
    assert sorted(answered.values()) == [1] * 9, "nothing that arrived is sent again"
    warnings = [event for event in events if isinstance(event, Warned)]
    assert len(warnings) <= 12
    assert share < 0.4 or any("SlowDown" in event.text for event in warnings)


def test_a_trouble_is_reported_with_its_reason_before_ten_seconds_have_gone(
    proxy: Proxy,
) -> None:
    proxy.fault = lambda sent: Spoil(status=503, body=xml("SlowDown", "Please reduce your rate"))
    target = parse_destination(f"s3://{BUCKET}/x?endpoint_url=http://127.0.0.1:{proxy.port}")
    started = time.monotonic()
    message: list[tuple[float, str]] = []

    def tell(text: str) -> None:
        message.append((time.monotonic() - started, text))

    (problem,) = check_destinations(
        [target], secrets=SECRETS, env={}, total_limit_seconds=12, on_trouble=tell
    )
    assert "SlowDown" in problem.text
    assert "Please reduce your rate" in message[0][1]
    assert message[0][0] < 10


def test_a_trouble_that_stays_is_reported_again_with_its_count() -> None:
    repeats = Repeats(every_seconds=0.05)
    assert repeats.is_due("full") == "trying again"
    assert repeats.is_due("full") == ""
    assert repeats.is_due("slow") == "trying again"
    time.sleep(0.06)
    assert repeats.is_due("full").startswith("trying again (3 times in")


def test_a_destination_is_found_good_though_two_of_three_requests_are_refused(
    proxy: Proxy,
) -> None:
    """A refused request costs itself, not those of the check that were answered before it."""
    count = 0

    def fault(sent: SeenRequest) -> Spoil | None:
        nonlocal count
        count += 1
        body = "" if sent.method == "HEAD" else xml("SlowDown", "slow")
        return Spoil(status=503, body=body) if count % 3 else None

    proxy.fault = fault
    target = parse_destination(f"s3://{BUCKET}/slow?endpoint_url=http://127.0.0.1:{proxy.port}")
    found = check_destinations([target], secrets=SECRETS, env={})
    assert [str(each) for each in found if each.level == "error"] == []
