"""What tests of deliveries to S3 share: the servers, the bucket, and what is read back from it."""

import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.fault_proxy import SeenRequest
from servers.s3_servers import KEY_ID, SECRET_KEY, s3_client

from tenner.core.checksums import DeliveredFile
from tenner.core.secrets import Secrets
from tenner.runs.deliver import deliver
from tenner.storage.destination import Destination

SECRETS = Secrets(values={"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY})
BUCKET = "loras"
once = pytest.mark.parametrize("server_port", ["moto"], indirect=True)
"""For what the proxy alone answers: it is the same with each server."""


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


def is_part(sent: SeenRequest, number: int) -> bool:
    return sent.method == "PUT" and f"partNumber={number}" in sent.path


def upload_id(sent: SeenRequest) -> str:
    return parse_qs(urlsplit(sent.path).query).get("uploadId", [""])[0]


def error_xml(code: str, message: str = "spoilt") -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
