"""Of several machines that start one run, one trains at a time, whatever the network does."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from servers.fault_proxy import Proxy, Spoil, fault_proxy
from servers.s3_servers import KEY_ID, SECRET_KEY, moto_server, rclone_server, s3_client

from tenner.core.errors import DeliveryError
from tenner.core.secrets import Secrets
from tenner.queue.lease import Lease, LeaseLost
from tenner.runs.remote_run import RemoteRun
from tenner.storage.destination import Destination
from tenner.storage.destination_address import parse_destination

SECRETS = Secrets(values={"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY})
SECONDS = 3.0


def lease_at(destination: Destination, on_lost: Callable[[str], None] = lambda why: None) -> Lease:
    remote = RemoteRun(destination, "cat", SECRETS, {})
    return Lease(remote=remote, on_lost=on_lost, seconds=SECONDS)


def bucket_at(port: int) -> Destination:
    s3_client(port).create_bucket(Bucket="loras")
    return parse_destination(f"s3://loras/a?endpoint_url=http://127.0.0.1:{port}")


@pytest.fixture(params=["folder", "moto"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Destination]:
    if request.param == "folder":
        yield parse_destination(f"file://{tmp_path / 'there'}")
        return
    with moto_server(tmp_path) as port:
        yield bucket_at(port)


def test_many_wait_for_it_and_never_two_have_it(destination: Destination) -> None:
    inside: list[str] = []
    overlaps: list[tuple[str, ...]] = []
    turns: list[int] = []

    def machine() -> None:
        with lease_at(destination) as lease:
            lease.take(lambda text: None)
            inside.append(lease.holder)
            if len(inside) > 1:
                overlaps.append(tuple(inside))
            time.sleep(0.2)
            inside.remove(lease.holder)
            turns.append(lease.generation)

    machines = [threading.Thread(target=machine) for _ in range(5)]
    for each in machines:
        each.start()
    for each in machines:
        each.join(60)
    assert overlaps == []
    assert sorted(turns) == [1, 2, 3, 4, 5]


def test_a_holder_that_dies_is_followed_after_the_lease_and_not_before(
    destination: Destination,
) -> None:
    dead = lease_at(destination)
    dead.take(lambda text: None)
    dead._closing.set()  # a kill: no beat, nothing given back
    messages: list[str] = []
    started = time.monotonic()
    with lease_at(destination) as lease:
        lease.take(messages.append)
        assert time.monotonic() - started > SECONDS
        assert (lease.generation, messages) == (2, [f"{dead.holder} has this run; waiting"])
        # That the new holder still has it is not checked: a loaded machine may renew too late.
        with pytest.raises(LeaseLost):
            dead.check()


def test_one_that_is_renewed_outlasts_its_time(destination: Destination) -> None:
    with lease_at(destination) as first:
        first.take(lambda text: None)
        with pytest.raises(LeaseLost):
            lease_at(destination).take(lambda text: None, patience_seconds=2 * SECONDS)
        first.check()


def test_a_holder_that_is_cut_off_stops_before_another_can_follow(tmp_path: Path) -> None:
    with moto_server(tmp_path) as port, fault_proxy(port) as proxy:
        direct = bucket_at(port)
        behind = parse_destination(f"s3://loras/a?endpoint_url=http://127.0.0.1:{proxy.port}")
        stopped: list[float] = []
        cut_off = lease_at(behind, on_lost=lambda why: stopped.append(time.monotonic()))
        cut_off.take(lambda text: None)
        cut(proxy)
        with lease_at(direct) as other:
            other.take(lambda text: None)
            followed = time.monotonic()
        assert len(stopped) == 1
        assert stopped[0] < followed


def cut(proxy: Proxy) -> None:
    """From now on nothing answers behind the proxy."""
    proxy.fault = lambda sent: Spoil(silent=True)


def test_a_server_that_ignores_conditions_is_refused(tmp_path: Path) -> None:
    with rclone_server(tmp_path) as port, pytest.raises(DeliveryError, match="If-None-Match"):
        lease_at(bucket_at(port)).take(lambda text: None)
