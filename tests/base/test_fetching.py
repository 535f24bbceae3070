"""Base models fetched from loopback servers: whole and verified, resumed, or told from others."""

import hashlib
import json
import os
import pickle
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import hf_hub_download

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.fault_proxy import SeenRequest, Spoil, fault_proxy
from servers.hub_server import Hub, hub_server
from servers.hub_state import Account
from servers.s3_servers import KEY_ID, SECRET_KEY, rclone_server, s3_client

from tenner.base.inspection import inspect_base
from tenner.base.source import FetchedBase, fetch_base, parse_base_address
from tenner.base.source.access import access_problems
from tenner.base.tiny import base_dir
from tenner.core.errors import SettingsError
from tenner.core.secrets import NO_SECRETS, Secrets
from tenner.settings.known_bases import KNOWN_BASES
from tenner.storage.hub_download import Report

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
    """Files by their path, or a status; every request is kept."""

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
            with suppress(ConnectionError):  # the rest may not be wanted
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


@pytest.fixture
def site() -> Iterator[Site]:
    with web_site() as site:
        yield site


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        hub.state.tokens[TOKEN] = Account("me")
        yield hub


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


def test_a_file_from_the_web_arrives_once_and_is_asked_after(site: Site, tmp_path: Path) -> None:
    site.files["/a/model.safetensors"] = content = checkpoint()
    reported: list[tuple[int, int | None]] = []
    requested = f"{site.url}/a/model.safetensors"
    base = fetch(requested, tmp_path, on_bytes=lambda done, total: reported.append((done, total)))
    assert base.path.read_bytes() == content
    assert inspect_base(base.path, name="x").family == "sd1"
    assert reported[-1] == (len(content), len(content))
    assert fetch(requested, tmp_path).path == base.path
    assert "If-None-Match" in site.seen[-1]
    site.files["/a/model.safetensors"] = other = checkpoint()
    assert fetch(requested, tmp_path).path.read_bytes() == other


def test_a_cut_download_goes_on_only_in_the_same_file(site: Site, tmp_path: Path) -> None:
    site.files["/model.safetensors"] = content = checkpoint()
    site.cut_at = [200_000, 250_000]
    assert fetch(f"{site.url}/model.safetensors", tmp_path).path.read_bytes() == content
    assert [each.get("Range") for each in site.seen] == [None, "bytes=200000-", "bytes=250000-"]
    assert all("If-Range" in each for each in site.seen[1:])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (401, "401: access is denied"),
        (403, "403: access is denied"),
        (404, "404: there is no such file"),
        (b"<!DOCTYPE html><html>Please sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git-lfs pointer"),
        (pickle.dumps({"state_dict": list(range(999))}), "a pickle"),
        (b"PK\x03\x04" + bytes(4000), "a pickle"),
        (b"\xff" * 5000, "no safetensors file"),
    ],
)
def test_what_is_no_model_is_distinguished(
    site: Site, tmp_path: Path, content: bytes | int, says: str
) -> None:
    site.files["/model.safetensors"] = content
    reported = refusal(f"{site.url}/model.safetensors", tmp_path)
    assert says in reported
    assert f"{site.url}/model.safetensors" in reported


def test_a_login_page_with_status_200_is_reported_by_its_type_too(
    site: Site, tmp_path: Path
) -> None:
    site.files["/model.safetensors"] = b"  " * 5000
    site.types["/model.safetensors"] = "text/html; charset=utf-8"
    assert "a web page, not a model" in refusal(f"{site.url}/model.safetensors", tmp_path)


def test_a_wrong_sha256_is_reported_and_nothing_stays(site: Site, tmp_path: Path) -> None:
    site.files["/model.safetensors"] = content = checkpoint()
    requested = f"{site.url}/model.safetensors"
    assert "not the expected file" in refusal(requested, tmp_path, sha256="0" * 64)
    right = hashlib.sha256(content).hexdigest().upper()
    assert fetch(requested, tmp_path, sha256=right).path.is_file()


def test_a_disk_that_is_too_small_is_reported_before_the_download(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/model.safetensors"] = checkpoint()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("", (), {"free": 1000})())
    with pytest.raises(SettingsError, match="set TENNER_CACHE_DIR"):
        fetch(f"{site.url}/model.safetensors", tmp_path)


def hub_env(hub: Hub) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url}


def test_a_checkpoint_from_the_hub_is_held_to_its_hash_and_kept(hub: Hub, tmp_path: Path) -> None:
    repo = hub.state.make_repo("model", "me/model", private=True)
    content = checkpoint()
    hub.state.add_files(
        repo, {"model.safetensors": content, "README.md": b"---\nlicense: mit\n---"}
    )
    secrets = Secrets(values={"HF_TOKEN": TOKEN})
    base = fetch("hf://me/model", tmp_path, secrets=secrets, environ=hub_env(hub))
    assert base.path.read_bytes() == content
    assert base.hub_id == "me/model"
    (digest,) = [each for each in hub.state.large if hub.state.large[each] == content]
    hub.state.large[digest] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(SettingsError, match="not the expected file"):
        fetch("hf://me/model", tmp_path / "new", secrets=secrets, environ=hub_env(hub))
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    saved = fetch("hf://me/model", tmp_path, secrets=secrets, environ=away)
    assert saved.path == base.path  # the Hub cannot be asked: what is here is taken


def test_a_diffusers_folder_from_the_hub_is_whole(hub: Hub, tmp_path: Path) -> None:
    repo = hub.state.make_repo("model", "me/tiny")
    names = [path for path in base_dir().rglob("*") if path.is_file()]
    files = {f"sub/{path.relative_to(base_dir()).as_posix()}": path.read_bytes() for path in names}
    hub.state.add_files(repo, {**files, "sub/unet/diffusion_pytorch_model.bin": b"pickle"})
    base = fetch("hf://me/tiny/sub", tmp_path, environ=hub_env(hub))
    assert inspect_base(base.path, name="x").family == inspect_base(base_dir(), name="x").family
    assert not list(base.path.rglob("*.bin"))


def test_a_cut_file_from_the_hub_goes_on_and_the_token_stays_with_the_hub(
    hub: Hub, tmp_path: Path
) -> None:
    repo = hub.state.make_repo("model", "me/model", private=True)
    hub.state.add_files(repo, {"model.safetensors": checkpoint(30_000_000)})
    cut: list[SeenRequest] = []

    def once(sent: SeenRequest) -> Spoil | None:
        if sent.method == "GET" and "/large/" in sent.path and not cut:
            cut.append(sent)
            return Spoil(cut=True)
        return None

    with fault_proxy(hub.port) as proxy:
        proxy.fault = once
        fetch(
            "hf://me/model/model.safetensors",
            tmp_path,
            secrets=Secrets(values={"HF_TOKEN": TOKEN}),
            environ={"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"},
        )
    large = [
        seen_request
        for seen_request in proxy.seen
        if seen_request.method == "GET" and "/large/" in seen_request.path
    ]
    assert not any("Authorization" in seen_request.headers for seen_request in large)
    ranges = [seen_request.headers.get("Range") for seen_request in large]
    assert ranges[0] is None
    assert ranges[1] == "bytes=10485760-"
    assert list(tmp_path.rglob("*.part")) == []


def test_a_second_start_resumes_what_the_first_could_not_end(hub: Hub, tmp_path: Path) -> None:
    """Also where the first one's process ended: all that is used of it lies in the cache."""
    content = checkpoint(30_000_000)
    hub.state.add_files(hub.state.make_repo("model", "me/model"), {"model.safetensors": content})

    def cut_and_refuse(sent: SeenRequest) -> Spoil | None:
        if sent.method != "GET" or "/large/" not in sent.path:
            return None
        return Spoil(status=403) if "Range" in sent.headers else Spoil(cut=True)

    with fault_proxy(hub.port) as proxy:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        proxy.fault = cut_and_refuse
        assert "access denied" in refusal("hf://me/model", tmp_path, environ=env)
        proxy.fault = lambda sent: None
        proxy.seen.clear()
        assert fetch("hf://me/model", tmp_path, environ=env).path.read_bytes() == content
    ranges = [
        seen_request.headers.get("Range")
        for seen_request in proxy.seen
        if "/large/" in seen_request.path
    ]
    assert ranges == ["bytes=10485760-"]


def test_files_of_the_hub_lie_where_other_programs_look_for_them(hub: Hub, tmp_path: Path) -> None:
    content = checkpoint()
    commit = hub.state.add_files(
        hub.state.make_repo("model", "me/model"), {"a/model.safetensors": content}
    )
    home, reported = tmp_path / "hf-home", []
    env = {**hub_env(hub), "HF_HOME": str(home)}
    base = fetch(
        "hf://me/model/a",
        tmp_path / "one",
        environ=env,
        on_bytes=lambda *each: reported.append(each),
    )
    assert base.path.read_bytes() == content
    assert reported[-1] == (len(content), len(content))
    found = hf_hub_download(
        "me/model",
        "a/model.safetensors",
        revision=commit.sha,
        cache_dir=home / "hub",
        local_files_only=True,
    )
    assert Path(found).read_bytes() == content
    own = tmp_path / "two"
    away = {"HF_HOME": str(tmp_path / "other"), "TENNER_CACHE_DIR": str(own), **hub_env(hub)}
    assert fetch("hf://me/model/a", own, environ=away).path.resolve().is_relative_to(own)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("trouble", ["unreachable", "HF_HUB_OFFLINE"])
def test_a_file_in_the_hub_s_own_cache_needs_no_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    content, home = checkpoint(), tmp_path / "hf-home"
    hub.state.add_files(hub.state.make_repo("model", "me/model"), {"model.safetensors": content})
    hf_hub_download("me/model", "model.safetensors", endpoint=hub.url, cache_dir=home / "hub")
    monkeypatch.setattr("tenner.base.source.from_hub._LISTING_SECONDS", 1.0)
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(home)}
    if trouble == "HF_HUB_OFFLINE":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        env["HF_ENDPOINT"] = hub.url
    requested = "hf://me/model/model.safetensors"
    assert fetch(requested, tmp_path / "x", environ=env).path.read_bytes() == content
    assert "model" in refusal("hf://me/absent/model.safetensors", tmp_path / "y", environ=env)


def test_a_spoilt_file_in_tenner_s_cache_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    content = checkpoint()
    hub.state.add_files(hub.state.make_repo("model", "me/model"), {"model.safetensors": content})
    base = fetch("hf://me/model", tmp_path, environ=hub_env(hub))
    (base.path.parent / "complete.json").unlink()
    base.path.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert fetch("hf://me/model", tmp_path, environ=hub_env(hub)).path.read_bytes() == content


def test_a_gated_file_is_reported_with_its_page(hub: Hub, tmp_path: Path) -> None:
    """The Hub lists the files of a gated repo to everyone, and refuses only their content."""
    hub.state.add_files(
        hub.state.make_repo("model", "me/gated"), {"model.safetensors": checkpoint()}
    )
    with fault_proxy(hub.port) as proxy:
        proxy.fault = lambda sent: (
            Spoil(status=403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "terms"})
            if "/resolve/" in sent.path
            else None
        )
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        with pytest.raises(SettingsError, match="this repo is gated") as raised:
            fetch("hf://me/gated", tmp_path, environ=env)
    (problem,) = raised.value.problems
    assert f"open {env['HF_ENDPOINT']}/me/gated, accept its terms" in problem.fix


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_base_is_asked_for_before_anything_is_rented(
    hub: Hub, tmp_path: Path, status: int
) -> None:
    """FLUX.1 dev by its short name: refused with its page while the licence is not accepted."""
    known = next(each for each in KNOWN_BASES if each.name == "flux-dev")
    repo = hub.state.make_repo("model", known.hub_id)
    hub.state.add_files(repo, {known.file: checkpoint()})
    with fault_proxy(hub.port) as proxy:
        proxy.fault = lambda sent: (
            Spoil(status=status, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "terms"})
            if "/resolve/" in sent.path
            else None
        )
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}", "HF_HOME": str(tmp_path)}
        (problem,) = access_problems(known, env)
    assert problem.level == "error"
    assert "open https://huggingface.co/black-forest-labs/FLUX.1-dev, accept its" in problem.fix
    assert access_problems(replace(known, is_gated=False), env) == ()
    silent = {**env, "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert access_problems(known, silent) == ()  # `train` asks again


def test_room_and_size_are_looked_at_before_a_file_of_the_hub_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.state.add_files(
        hub.state.make_repo("model", "me/model"), {"model.safetensors": checkpoint()}
    )
    with fault_proxy(hub.port) as proxy:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}
        with monkeypatch.context() as small:
            small.setattr("shutil.disk_usage", lambda path: type("", (), {"free": 1000})())
            with pytest.raises(SettingsError, match=r"has 300\.2 kB, but .*hub"):
                fetch("hf://me/model", tmp_path / "x", environ=env)
        monkeypatch.setattr("tenner.base.source.from_hub.MAX_BYTES", 1000)
        assert "is larger than" in refusal("hf://me/model", tmp_path, environ=env)
    assert not any("/resolve/" in sent.path for sent in proxy.seen)


def test_bytes_of_xet_are_counted_once() -> None:
    """Xet's storage is no place of a test's: its reports are given to the library's own counter."""
    from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

    reported: list[int] = []
    report = type("Report", (Report,), {"on_progress": staticmethod(reported.append)})
    state = SimpleNamespace(
        total_bytes=100, total_bytes_completion_rate=1.0, total_transfer_bytes_completion_rate=1.0
    )
    with XetDownloadProgressReporter(
        reconstruction_desc="x", total=100, log_level=0, tqdm_class=report
    ) as progress:
        for written, arrived in ((0, 30), (40, 70), (100, 90)):
            state.total_bytes_completed, state.total_transfer_bytes_completed = written, arrived
            progress.update_progress(state)
    assert reported == [40, 100]


@pytest.mark.parametrize("folder", ["", "sub/"])
def test_what_the_hub_s_own_cache_holds_is_not_fetched_again(
    hub: Hub, tmp_path: Path, folder: str
) -> None:
    """As another program fetched it; a file there that is another one is not taken."""
    repo = hub.state.make_repo("model", "me/model")
    content, name = checkpoint(2_000_000), f"{folder}model.safetensors"
    hub.state.add_files(repo, {name: content})
    home = tmp_path / "hf-home"
    cached = hf_hub_download("me/model", name, endpoint=hub.url, cache_dir=home / "hub")
    with fault_proxy(hub.port) as proxy:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}", "HF_HOME": str(home)}
        base = fetch(f"hf://me/model/{name}", tmp_path / "new", environ=env)
        assert base.path.read_bytes() == content
        assert [sent for sent in proxy.seen if "/large/" in sent.path] == []
        Path(cached).resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        base = fetch(f"hf://me/model/{name}", tmp_path / "other", environ=env)
        assert base.path.read_bytes() == content


def test_a_known_base_in_the_hub_s_own_cache_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    content, file = checkpoint(), "model.safetensors"
    commit = hub.state.add_files(hub.state.make_repo("model", "me/model"), {file: content})
    home = tmp_path / "hf-home"
    hf_hub_download("me/model", file, revision=commit.sha, endpoint=hub.url, cache_dir=home / "hub")
    address = parse_base_address("sdxl")
    assert address is not None
    assert address.known is not None
    digest = hashlib.sha256(content).hexdigest()
    known = replace(address.known, file=file, revision=commit.sha, sha256=digest)
    address = replace(address, location="me/model", path=file, revision=commit.sha, known=known)
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(home)}
    for _ in range(2):
        base = fetch_base(address, cache=tmp_path / "x", secrets=NO_SECRETS, environ=env)
        assert base.path.read_bytes() == content
        assert base.licence == known.licence


@pytest.mark.parametrize(
    ("requested", "says", "fix"),
    [
        ("hf://me/none", "no such repo", "HF_TOKEN"),
        ("hf://me/gated", "gated", "accept its terms"),
        ("hf://me/open@nowhere", "no such branch", "after @"),
        ("hf://me/open/absent.safetensors", "there is no absent.safetensors", "letter for letter"),
    ],
)
def test_what_the_hub_refuses_is_reported(
    hub: Hub, tmp_path: Path, requested: str, says: str, fix: str
) -> None:
    hub.state.make_repo("model", "me/gated").gated = True
    hub.state.make_repo("model", "me/open")
    with pytest.raises(SettingsError) as raised:
        fetch(requested, tmp_path, environ=hub_env(hub))
    (problem,) = raised.value.problems
    assert says in problem.text
    assert fix in problem.fix


def test_a_checkpoint_from_a_bucket(tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.mkdir()
    content = checkpoint()
    with rclone_server(server) as port:
        endpoint = f"http://127.0.0.1:{port}"
        client = s3_client(port)
        client.create_bucket(Bucket="models")
        client.put_object(Bucket="models", Key="sd/model.safetensors", Body=content)
        keys = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        more = {"secrets": Secrets(values=keys), "environ": {"AWS_ENDPOINT_URL": endpoint}}
        for requested in ("s3://models/sd/model.safetensors", "s3://models/sd"):
            assert fetch(requested, tmp_path / "cache", **more).path.read_bytes() == content
        with pytest.raises(SettingsError):
            fetch("s3://models/absent.safetensors", tmp_path / "cache", **more)
