"""Base models on loopback servers: a web site, a Hub, and the call that fetches from them."""

import hashlib
import json
import os
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.hub_server import Hub

from tenner.base.source import FetchedBase, fetch_base, parse_base_address
from tenner.core.errors import SettingsError
from tenner.core.secrets import NO_SECRETS, Secrets

TOKEN = "loopback-read-word"


def checkpoint(num_bytes: int = 300_000) -> bytes:
    """A Stable Diffusion 1.x file by its header, with noise for weights."""
    names = ("model.diffusion_model.x", "cond_stage_model.transformer.x")
    sizes = (num_bytes, 2)
    header, at = {}, 0
    for name, size in zip(names, sizes, strict=True):
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + os.urandom(at)


def range_of(header: str, size: int) -> tuple[int, int]:
    """First and last byte of `bytes=FIRST-LAST`, or of `bytes=FIRST-`."""
    first, _, last = header.removeprefix("bytes=").partition("-")
    return int(first), min(int(last or size - 1), size - 1)


class Site:
    """Files by their path, or a status; `seen` holds the headers of every request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | int] = {}
        self.types: dict[str, str] = {}
        self.seen: list[dict[str, str]] = []
        self.cut_at: list[int] = []
        self.takes_ranges = True
        self.url = ""


@contextmanager
def web_site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            site.seen.append(dict(self.headers.items()))
            found = site.files.get(self.path.partition("?")[0], 404)
            if isinstance(found, int):
                self.send_response(found)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            etag = f'"{hashlib.sha256(found).hexdigest()[:16]}"'
            if self.headers.get("If-None-Match") == etag:
                self.send_response(304)
                self.end_headers()
                return
            start, last = 0, len(found) - 1
            expected = self.headers.get("Range", "") if site.takes_ranges else ""
            if expected and self.headers.get("If-Range", etag) == etag:
                start, last = range_of(expected, len(found))
            self.send_response(206 if expected else 200)
            if expected:
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(found)}")
            kind = site.types.get(self.path, "application/octet-stream")
            self.send_header("Content-Type", kind)
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(last + 1 - start))
            self.end_headers()
            end = site.cut_at.pop(0) if site.cut_at else last + 1
            with suppress(ConnectionError):  # the client may have closed it
                self.wfile.write(found[start:end])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def fetch(requested: str, cache: Path, *, secrets: Secrets = NO_SECRETS, **more) -> FetchedBase:
    address = parse_base_address(requested)
    assert address is not None
    more.setdefault("environ", {})
    return fetch_base(address, cache=cache, secrets=secrets, **more)


def refusal(requested: str, cache: Path, **more) -> str:
    with pytest.raises(SettingsError) as raised:
        fetch(requested, cache, **more)
    assert all(problem.fix for problem in raised.value.problems)
    assert str(cache) not in "".join(problem.text for problem in raised.value.problems)
    left = [path for path in cache.rglob("*.safetensors") if path.is_file()]
    assert left == []
    return str(raised.value)


def hub_env(hub: Hub) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url}
