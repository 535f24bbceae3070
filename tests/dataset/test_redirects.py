"""No redirect of a dataset's, base's or destination's server leads into this machine's network."""

import io
import os
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from huggingface_hub import close_session

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.hub_server import Hub, hub_server
from servers.hub_state import Account

from tenner.base.source import fetch_base, parse_base_address
from tenner.core.checksums import DeliveredFile
from tenner.core.errors import DatasetError, DeliveryError, SettingsError
from tenner.core.retry import PermanentError
from tenner.core.secrets import Secrets
from tenner.dataset import DatasetRequest
from tenner.dataset.fetch import fetch
from tenner.runs.deliver import deliver
from tenner.storage.destination_address import parse_destination
from tenner.storage.redirects import RedirectGuard, ServerGuard, is_inside

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@dataclass
class Net:
    """A small network behind one port, which is both a proxy and a host of its own."""

    port: int = 0
    moves: dict[str, str] = field(default_factory=dict[str, str])
    """Where a host or path redirects to."""
    requests: list[str] = field(default_factory=list[str])


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
            found.requests.append(self.path)
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
    resolve_names(monkeypatch)
    yield found
    server.shutdown()
    server.server_close()


def resolve_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let made-up names have addresses, and no proxy be set."""
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
    assert len(net.requests) == hops
    assert not any(urlsplit(each).hostname in inside for each in net.requests)


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


TOKEN = "loopback-hub-word"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that is its own proxy, so that it may have any name; it holds one large file."""
    resolve_names(monkeypatch)
    with hub_server() as hub:
        hub.state.tokens[TOKEN] = Account(name="me")
        for kind in ("dataset", "model"):
            repo = hub.state.make_repo(kind, "me/toys")
            hub.state.add_files(repo, {"a.safetensors": os.urandom(1000), "a.png": b"x" * 1000})
        monkeypatch.setenv("http_proxy", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        close_session()
        yield hub
        close_session()


def from_hub(what: str, endpoint: str, tmp_path: Path) -> None:
    """Fetch a dataset or a base, or deliver a file. Raises what the user is shown."""
    secrets, env = Secrets(values={"HF_TOKEN": TOKEN}), {"HF_ENDPOINT": endpoint}
    if what == "dataset":
        fetch("hf://datasets/me/toys", request(tmp_path))
    elif what == "base":
        address = parse_base_address("hf://me/toys/a.safetensors")
        assert address
        fetch_base(address, cache=tmp_path / "cache", secrets=secrets, environ=env)
    else:
        (tmp_path / "new.safetensors").write_bytes(os.urandom(1000))
        files = [DeliveredFile(path=tmp_path / "new.safetensors", name="new.safetensors")]
        to = [parse_destination("hf://me/toys")]
        deliver(files, to, secrets=secrets, env=env, total_limit_seconds=60)


@pytest.mark.parametrize("what", ["dataset", "base", "destination"])
@pytest.mark.parametrize(
    "inside", ["http://127.0.0.1:9", "http://169.254.169.254", "http://inside.example"]
)
def test_a_hub_that_sends_on_into_this_network_is_refused_before_it_is_asked(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, what: str, inside: str
) -> None:
    hub.state.storage = inside
    monkeypatch.setenv("HF_ENDPOINT", "http://photos.example")
    with pytest.raises(
        (DatasetError, SettingsError, DeliveryError), match="redirects to"
    ) as reported:
        from_hub(what, "http://photos.example", tmp_path)
    assert "not followed" in reported.value.problems[0].fix


@pytest.mark.parametrize("what", ["dataset", "destination"])
def test_a_hub_in_this_network_may_send_on_inside_and_one_outside_to_others_outside(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    hub.state.storage = "http://mirror.example"
    monkeypatch.setenv("HF_ENDPOINT", "http://photos.example")
    from_hub(what, "http://photos.example", tmp_path)
    hub.state.storage = ""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    from_hub(what, hub.url, tmp_path)


def test_storage_of_large_files_that_another_library_connects_to_is_looked_at(
    net: Net,
) -> None:
    reported = {"X-Xet-Cas-Url": "http://10.0.0.7/cas"}
    url = httpx.Request("GET", "http://photos.example/x")
    with pytest.raises(PermanentError, match=r"redirects to 10\.0\.0\.7"):
        ServerGuard("http://photos.example").after(
            httpx.Response(200, request=url, headers=reported)
        )
    ServerGuard("http://127.0.0.1").after(httpx.Response(200, request=url, headers=reported))


@pytest.mark.parametrize("what", ["prefix", "archive", "base"])
@pytest.mark.parametrize("status", [301, 302, 307])
def test_no_redirect_of_an_s3_server_is_followed(
    tmp_path: Path, net: Net, monkeypatch: pytest.MonkeyPatch, what: str, status: int
) -> None:
    """Neither by the location nor by the region that it names."""
    keys = {"AWS_ACCESS_KEY_ID": "AKIALOOPBACK", "AWS_SECRET_ACCESS_KEY": "loopback-word-0123"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    moves: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            moves.append(self.path)
            self.send_response(status)
            self.send_header("Location", f"http://127.0.0.1:{net.port}{self.path}")
            self.send_header("x-amz-bucket-region", "inside.example/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    location = {"prefix": "photos", "archive": "photos.zip", "base": "base.safetensors"}[what]
    source = f"s3://bucket/{location}?endpoint_url=http://127.0.0.1:{server.server_port}"

    def fetch_it() -> None:
        if what != "base":
            fetch(source, request(tmp_path))
        elif address := parse_base_address(source):
            found = Secrets(values=keys)
            fetch_base(address, cache=tmp_path / "cache", secrets=found, environ={})

    try:
        with pytest.raises((DatasetError, SettingsError)):
            fetch_it()
    finally:
        server.shutdown()
        server.server_close()
    assert moves
    assert net.requests == []


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
