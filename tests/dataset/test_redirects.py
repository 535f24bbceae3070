"""A redirect of a dataset's address never leads into this machine's own network."""

import io
import socket
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tenner.core.errors import DatasetError
from tenner.dataset import DatasetRequest
from tenner.dataset.fetch import fetch
from tenner.storage.redirects import RedirectGuard, is_inside


@dataclass
class Net:
    """A small network behind one port, which is both a proxy and a host of its own."""

    port: int = 0
    moves: dict[str, str] = field(default_factory=dict[str, str])
    """Where a host or path sends whoever asks."""
    asked: list[str] = field(default_factory=list[str])


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        opened.writestr("3_toy/a.png", b"a picture")
    return out.getvalue()


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    found = Net()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            found.asked.append(self.path)
            move = found.moves.get(url.hostname or "") or found.moves.get(url.path)
            self.send_response(302 if move else 200)
            if move:
                self.send_header("Location", move)
            body = b"" if move else archive()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    names = {"photos.example": "93.184.215.14", "mirror.example": "93.184.215.15"}
    names |= {"inside.example": "10.1.2.3", "both.example": "93.184.215.16 127.0.0.1"}
    real = socket.getaddrinfo

    def resolve(host: str, port: object, *args: object, **more: object) -> list[object]:
        if host not in names:
            return real(host, port, *args, **more)  # type: ignore[arg-type]
        return [(socket.AF_INET, 1, 6, "", (each, 0)) for each in names[host].split()]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield found
    server.shutdown()
    server.server_close()


def request(tmp_path: Path) -> DatasetRequest:
    return DatasetRequest(cache_dir=tmp_path / "cache", num_workers=1)


@pytest.mark.parametrize(
    "inside",
    [
        "http://127.0.0.1:{port}/x.zip",
        "http://localhost:{port}/x.zip",
        "http://127.1:{port}/x.zip",
        "http://2130706433:{port}/x.zip",
        "http://[::1]:{port}/x.zip",
        "http://[::ffff:127.0.0.1]:{port}/x.zip",
        "http://169.254.169.254/latest/meta-data/iam",
        "http://10.0.0.5/x.zip",
        "http://192.168.1.1/x.zip",
        "http://172.16.0.1/x.zip",
        "http://100.64.0.1/x.zip",
        "http://0.0.0.0:{port}/x.zip",
        "http://[fe80::1]/x.zip",
        "http://[fd00::1]/x.zip",
        "http://inside.example/x.zip",
        "http://both.example/x.zip",
    ],
)
@pytest.mark.parametrize("hops", [1, 2])
def test_a_redirect_inside_is_refused_before_it_is_asked(
    tmp_path: Path, net: Net, monkeypatch: pytest.MonkeyPatch, inside: str, hops: int
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{net.port}")
    target = inside.format(port=net.port)
    net.moves = {"photos.example": target}
    if hops == 2:
        net.moves = {"photos.example": "http://mirror.example/", "mirror.example": target}
    with pytest.raises(DatasetError, match="redirects to") as caught:
        fetch("http://photos.example/x.zip", request(tmp_path))
    assert caught.value.problems[0].fix
    assert len(net.asked) == hops
    assert not any(urlsplit(each).hostname in inside for each in net.asked)


def test_a_redirect_among_public_hosts_is_followed(
    tmp_path: Path, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{net.port}")
    net.moves = {"photos.example": "http://mirror.example/y.zip"}
    assert (fetch("http://photos.example/x.zip", request(tmp_path)) / "3_toy" / "a.png").is_file()


@pytest.mark.parametrize("first", ["127.0.0.1", "localhost"])
def test_an_address_that_is_inside_itself_may_send_elsewhere_inside(
    tmp_path: Path, net: Net, first: str
) -> None:
    net.moves = {"/x.zip": f"http://127.0.0.1:{net.port}/y.zip"}
    found = fetch(f"http://{first}:{net.port}/x.zip", request(tmp_path))
    assert (found / "3_toy" / "a.png").is_file()


class _Stream:
    def __init__(self, peer: str) -> None:
        self._peer = peer

    def get_extra_info(self, name: str) -> tuple[str, int]:
        assert name == "server_addr"
        return (self._peer, 80)


def answer(url: str, peer: str) -> httpx.Response:
    return httpx.Response(
        302, request=httpx.Request("GET", url), extensions={"network_stream": _Stream(peer)}
    )


def test_a_name_that_has_another_address_a_moment_later_is_refused(net: Net) -> None:
    """The name is public when it is looked up and inside when it is connected to."""
    guard = RedirectGuard(error=DatasetError)
    for url, peer in (("http://photos.example/", "93.184.215.14"), ("http://mirror.example/", "")):
        guard.before(httpx.Request("GET", url))
        if peer:
            guard.after(answer(url, peer))
    with pytest.raises(DatasetError, match=r"redirects to mirror\.example"):
        guard.after(answer("http://mirror.example/", "127.0.0.1"))


def test_a_name_that_pretends_to_be_inside_gains_nothing(net: Net) -> None:
    guard = RedirectGuard(error=DatasetError)
    guard.before(httpx.Request("GET", "http://inside.example/"))
    guard.after(answer("http://inside.example/", "93.184.215.14"))
    with pytest.raises(DatasetError):
        guard.before(httpx.Request("GET", "http://169.254.169.254/"))


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("2002:7f00:1::", True),
        ("2002:808:808::", False),
        ("64:ff9b::a00:1", True),
        ("64:ff9b::808:808", False),
        ("fe80::1%eth0", True),
        ("224.0.0.1", True),
        ("255.255.255.255", True),
    ],
)
def test_addresses_inside_are_known_in_each_form(address: str, inside: bool) -> None:
    assert is_inside(address) == inside
