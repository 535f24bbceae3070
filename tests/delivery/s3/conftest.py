"""Four independent servers that speak S3, each behind a fault proxy, and files to deliver."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from remote_files import files_to_deliver
from servers.fault_proxy import Proxy, fault_proxy
from servers.s3_servers import (
    localbucket_server,
    make_used_bucket,
    moto_server,
    rclone_server,
    seaweed_server,
)

from tenner.core.checksums import DeliveredFile
from tenner.storage.destination import Destination
from tenner.storage.destination_address import parse_destination
from tests.delivery.s3.s3_delivery import BUCKET

SERVERS = {
    "moto": moto_server,
    "rclone": rclone_server,
    "seaweed": seaweed_server,
    "localbucket": localbucket_server,
}


@pytest.fixture(scope="session", params=sorted(SERVERS))
def server_port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as port:
        make_used_bucket(port, BUCKET)
        yield port


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of the server, a key of `SERVERS`."""
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
    return files_to_deliver(tmp_path / "run", largest=(20 << 20) + 7)
