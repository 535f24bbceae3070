"""Datasets that are fetched: kept, resumed, never stale; from web, S3 and Hub servers."""

import io
import os
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pyarrow
import pyarrow.parquet
import pytest
from pictures import write_set
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.fault_proxy import SeenRequest, Spoil, fault_proxy
from servers.hub_server import Hub, hub_server
from servers.hub_state import Account
from servers.s3_servers import KEY_ID, SECRET_KEY, moto_server, s3_client

from tenner.core.errors import DatasetError
from tenner.dataset import DatasetRequest
from tenner.dataset.fetch import fetch
from tenner.dataset.listing import list_files
from tenner.dataset.metadata import read_metadata


def request(tmp_path: Path, **more) -> DatasetRequest:
    return DatasetRequest(cache_dir=tmp_path / "cache", num_workers=1, **more)


def names(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found if path.name[0] != "."}


def zipped(word: bytes, size: int = 40_000) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("3_toy/a.png", word + os.urandom(size))
    return out.getvalue()


class Versions(BaseHTTPRequestHandler):
    """One file with an ETag: answers 304, ranges of the same version, and cuts when told."""

    data: ClassVar[bytes] = b""
    etag: ClassVar[str] = '"one"'
    send: ClassVar[int | None] = None
    seen: ClassVar[list[tuple[int, int]]] = []

    def do_GET(self) -> None:
        data, start = self.data, 0
        if self.etag and self.headers.get("If-None-Match") == self.etag:
            self.answer(304, b"")
            return
        same = self.headers.get("If-Range", self.etag) == self.etag
        if "Range" in self.headers and same:
            start = int(self.headers["Range"][6:].rstrip("-"))
        self.answer(206 if start else 200, data[start:])

    def answer(self, status: int, body: bytes) -> None:
        sent = body if self.send is None else body[: self.send]
        self.seen.append((status, len(sent)))  # before the answer, which the test may act on
        self.send_response(status)
        if self.etag:
            self.send_header("ETag", self.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("tenner.storage.http.FIRST_WAIT_SECONDS", 0.01)
    Versions.etag, Versions.send, Versions.seen = '"one"', None, []
    served = ThreadingHTTPServer(("127.0.0.1", 0), Versions)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/set.zip"
    served.shutdown()
    served.server_close()
    thread.join()


def test_a_restart_asks_and_fetches_nothing_and_a_new_version_is_fetched(tmp_path, web):
    needed = request(tmp_path)
    Versions.data = zipped(b"one")
    first = fetch(web, needed)
    assert fetch(web, needed) == first
    assert [status for status, _ in Versions.seen] == [200, 304]
    Versions.data, Versions.etag = zipped(b"two"), '"two"'
    second = fetch(web, needed)
    assert (second / "3_toy" / "a.png").read_bytes()[:3] == b"two"


def test_a_kept_file_is_used_where_the_server_is_gone(tmp_path, web):
    Versions.data = zipped(b"one")
    first = fetch(web, request(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Versions, "do_GET", lambda self: self.send_error(503))
        assert fetch(web, request(tmp_path)) == first


def test_a_cut_file_is_resumed_only_in_the_same_version(tmp_path, web, monkeypatch):
    Versions.data, Versions.send = zipped(b"one"), 0
    with pytest.raises(DatasetError, match="cannot be fetched from"):
        fetch(web, request(tmp_path))
    Versions.send = 10_000
    part = next((tmp_path / "cache" / "downloads").glob("*.part"))
    part.write_bytes(Versions.data[:30_000])
    Versions.seen.clear()
    folder = fetch(web, request(tmp_path))
    assert (folder / "3_toy" / "a.png").read_bytes()[:3] == b"one"
    assert sum(size for _, size in Versions.seen) < 15_000

    Versions.data, Versions.etag = zipped(b"old"), '"old"'
    monkeypatch.setattr("tenner.storage.http.ATTEMPTS", 1)
    with pytest.raises(DatasetError):
        fetch(web + "?other", request(tmp_path))
    Versions.data, Versions.etag, Versions.send = zipped(b"new"), '"new"', None
    folder = fetch(web + "?other", request(tmp_path))
    assert (folder / "3_toy" / "a.png").read_bytes()[:3] == b"new"


def test_without_versions_a_file_of_another_length_is_another_file(tmp_path, web):
    Versions.data, Versions.etag = zipped(b"one"), ""
    fetch(web, request(tmp_path))
    Versions.data = zipped(b"two", 50_000)
    assert (fetch(web, request(tmp_path)) / "3_toy" / "a.png").read_bytes()[:3] == b"two"


def test_a_known_checksum_asks_nothing(tmp_path, web):
    import hashlib

    Versions.data = zipped(b"one")
    needed = request(tmp_path, sha256=hashlib.sha256(Versions.data).hexdigest())
    first = fetch(web, needed)
    Versions.seen.clear()
    assert fetch(web, needed) == first
    assert Versions.seen == []


@pytest.fixture(scope="module")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with moto_server(tmp_path_factory.mktemp("moto")) as port:
        s3_client(port).create_bucket(Bucket="photos")
        yield port


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET_KEY + "\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(secret))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.mark.usefixtures("keys")
def test_a_bucket_is_mirrored_and_what_is_gone_there_is_gone_here(tmp_path, s3_port):
    s3 = s3_client(s3_port)
    for path in write_set(tmp_path / "set", 3):
        for each in (path, path.with_suffix(".txt")):
            s3.upload_file(str(each), "photos", f"sets/10_toy/{each.name}")
    s3.put_object(Bucket="photos", Key="sets/10_toys/other.png", Body=b"x")
    with fault_proxy(s3_port) as proxy:
        source = f"s3://photos/sets/10_toy?endpoint_url=http://127.0.0.1:{proxy.port}"
        progress: list[tuple[int, int | None]] = []
        folder = fetch(source, request(tmp_path), lambda *seen: progress.append(seen))
        assert len(names(folder)) == 6
        assert progress[-1][0] == progress[-1][1]
        proxy.seen.clear()
        fetch(source, request(tmp_path))
        assert [each.method for each in proxy.seen if "list-type" not in each.path] == []
        s3.delete_object(Bucket="photos", Key="sets/10_toy/img000.png")
        s3.put_object(Bucket="photos", Key="sets/10_toy/img001.txt", Body=b"a new caption")
        assert fetch(source, request(tmp_path)) == folder
        assert names(folder) == {
            "img000.txt", "img001.png", "img001.txt", "img002.png", "img002.txt",
        }  # fmt: skip
        assert (folder / "img001.txt").read_bytes() == b"a new caption"


@pytest.mark.usefixtures("keys")
def test_an_archive_in_a_bucket_is_unpacked_and_cuts_are_resumed(tmp_path, s3_port):
    s3_client(s3_port).put_object(Bucket="photos", Key="big.zip", Body=zipped(b"one", 3_000_000))

    def cut(sent: SeenRequest) -> Spoil | None:
        return Spoil(cut=True) if sent.method == "GET" and sent.number == 3 else None

    with fault_proxy(s3_port) as proxy:
        proxy.fault = cut
        source = f"s3://photos/big.zip?endpoint_url=http://127.0.0.1:{proxy.port}"
        folder = fetch(source, request(tmp_path))
        assert any("Range" in each.headers for each in proxy.seen)
    assert (folder / "3_toy" / "a.png").stat().st_size == 3_000_003
    with pytest.raises(DatasetError, match="larger than"):
        fetch(f"s3://photos/big.zip?endpoint_url=http://127.0.0.1:{s3_port}",
              request(tmp_path / "more", max_bytes=1000))  # fmt: skip


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("source", "message"),
    [("s3://photos/nothing", "holds no files"), ("s3://no-such/x", "no such bucket"),
     ("s3://Bad_Name/x", "is no bucket name")],
)  # fmt: skip
def test_what_is_wrong_with_a_bucket_is_reported(tmp_path, s3_port, source, message):
    with pytest.raises(DatasetError, match=message):
        fetch(f"{source}?endpoint_url=http://127.0.0.1:{s3_port}", request(tmp_path))


@pytest.mark.parametrize(
    "source", ["s3://Bad_Name/x", "gs://photos/../x", "azure://X y/x", "rclone:remote"]
)
def test_errors_of_an_address_in_a_bucket_name_the_dataset(tmp_path, source):
    with pytest.raises(DatasetError, match=f"^dataset {source}"):
        fetch(source, request(tmp_path))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as hub:
        hub.state.tokens["loopback-token"] = Account(name="me")
        repo = hub.state.make_repo("dataset", "me/toys", private=True)
        hub.state.add_files(
            repo,
            {
                "train/a.png": b"\x89PNG one",
                "train/b.jpg": b"small",
                "metadata.jsonl": b'{"file_name": "train/a.png", "text": "a toy"}\n',
            },
        )
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "loopback-token")
        yield hub


def test_a_hub_dataset_is_fetched_once_and_used_without_the_network(tmp_path, hub, monkeypatch):
    source = "hf://datasets/me/toys"
    progress: list[tuple[int, int | None]] = []
    folder = fetch(source, request(tmp_path), lambda *seen: progress.append(seen))
    assert names(folder) == {"train/a.png", "train/b.jpg", "metadata.jsonl"}
    assert (folder / "train/a.png").read_bytes() == b"\x89PNG one"
    assert progress[-1][0] == progress[-1][1] > 0
    hub.state.add_files(hub.state.repos["dataset", "me/toys"], {"train/c.png": b"three"})
    newer = fetch(source, request(tmp_path))
    assert names(newer) == names(folder) | {"train/c.png"}
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch(source, request(tmp_path)).samefile(newer)


def test_what_is_wrong_with_a_hub_dataset_is_reported(tmp_path, hub, monkeypatch):
    for source, text in (
        ("hf://me/toys", "names no dataset"),
        ("hf://datasets/me/no", "cannot be"),
    ):
        with pytest.raises(DatasetError, match=text):
            fetch(source, request(tmp_path))
    with pytest.raises(DatasetError, match="larger than"):
        fetch("hf://datasets/me/toys", request(tmp_path, max_bytes=10))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(DatasetError) as refused:
        fetch("hf://datasets/me/toys", request(tmp_path))
    assert "HF_TOKEN" in refused.value.problems[0].fix


def table_of(rows: list[dict[str, object]]) -> bytes:
    """A table as `datasets` pushes one to the Hub: a picture is a structure of bytes and path."""
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out, row_group_size=2)
    return out.getvalue()


def picture_bytes(colour: str, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(out, kind)
    return out.getvalue()


def test_pictures_in_tables_of_the_hub_are_taken_out_once_with_their_captions(
    tmp_path, hub, monkeypatch
):
    rows = [
        {"image": {"bytes": picture_bytes("red"), "path": "../../a"}, "text": "a red toy"},
        {"image": {"bytes": picture_bytes("blue", "JPEG"), "path": None}, "text": "a blue toy"},
        {"image": None, "text": "nothing"},
        {"image": {"bytes": b"no picture", "path": "c.png"}, "text": None},
    ]
    repo = hub.state.make_repo("dataset", "me/tables", private=True)
    other = table_of([{"image": {"bytes": b"x", "path": ""}, "text": "not for training"}])
    tables = {"data/train-00000-of-00001.parquet": table_of(rows), "data/test-0.parquet": other}
    hub.state.add_files(repo, tables)
    folder = fetch("hf://datasets/me/tables", request(tmp_path))
    written = {"0000-000000.png", "0000-000001.jpg", "0000-000002.jpg"}
    assert names(folder) == {*written, "metadata.jsonl"}
    assert (folder / "0000-000000.png").read_bytes() == picture_bytes("red")
    table = read_metadata(list_files(folder), written, folder)
    assert table.captions == {"0000-000000.png": "a red toy", "0000-000001.jpg": "a blue toy"}
    assert fetch("hf://datasets/me/tables", request(tmp_path)).samefile(folder)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DatasetError, match="one more package"):
        fetch("hf://datasets/me/tables", request(tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1 cut", "cannot be extracted"),
        (table_of([{"text": "no pictures"}]), "no column of pictures"),
        (table_of([{"jpg": picture_bytes("red")}] * 3), "larger than"),
    ],
)
def test_what_is_wrong_with_a_table_is_reported_and_nothing_is_left(tmp_path, content, message):
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(content)
    with pytest.raises(DatasetError, match=message) as refused:
        fetch(str(folder), request(tmp_path, max_bytes=300))
    assert refused.value.problems[0].fix
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
