"""Archives: unpacked once, never outside, never a bomb; and fetched over http with cuts."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard
from pictures import write_set

from tenner.core.errors import DatasetError
from tenner.dataset import DatasetRequest
from tenner.dataset.fetch import fetch
from tenner.dataset.inspection import read_sources


def request(tmp_path: Path, **more) -> DatasetRequest:
    return DatasetRequest(cache_dir=tmp_path / "cache", num_workers=1, **more)


def packed(tmp_path: Path, name: str) -> Path:
    write_set(tmp_path / "set" / "10_toy", 2)
    archive = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive, "w") as out:
            for path in sorted((tmp_path / "set").rglob("*")):
                out.write(path, path.relative_to(tmp_path))
    elif name.endswith(".zst"):
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as out:
            out.add(tmp_path / "set", "set")
        archive.write_bytes(zstandard.ZstdCompressor().compress(plain.getvalue()))
    else:
        with tarfile.open(archive, "w:gz") as out:
            out.add(tmp_path / "set", "set")
    return archive


@pytest.mark.parametrize("name", ["data.zip", "data.tar.gz", "data.tar.zst"])
def test_an_archive_is_unpacked_once(tmp_path, name):
    needed = request(tmp_path, source=str(packed(tmp_path, name)))
    (source,) = read_sources(needed)
    assert [image.source for image in source.images] == [
        "set/10_toy/img000.png",
        "set/10_toy/img001.png",
    ]
    folder = fetch(needed.source, needed)
    (folder / "mark").touch()
    assert (fetch(needed.source, needed) / "mark").exists()


def test_the_archives_own_name_may_say_the_repeats(tmp_path):
    with zipfile.ZipFile(tmp_path / "7_toy.zip", "w") as out:
        for path in write_set(tmp_path / "x", 1):
            out.write(path, path.name)
    (source,) = read_sources(request(tmp_path, source=str(tmp_path / "7_toy.zip")))
    assert [image.num_repeats for image in source.images] == [7]


def zip_with(path: Path, name: str, data: bytes = b"x", mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        out.writestr("10_toy/fine.png", b"x")
        out.writestr(info, data)
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [("../../x.png", 0o100644), ("/etc/x.png", 0o100644), ("C:\\x.png", 0o100644),
     ("..\\x.png", 0o100644), ("10_toy/link.png", 0o120777)],
)  # fmt: skip
def test_a_zip_that_would_write_elsewhere_is_refused_whole(tmp_path, name, mode):
    archive = zip_with(tmp_path / "bad.zip", name, mode=mode)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DatasetError, match=r"bad\.zip holds"):
        fetch(str(archive), request(tmp_path))
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_tar_with_links_or_devices_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "bad.tar", "w") as out:
        member = tarfile.TarInfo("10_toy/a.png")
        member.type = kind
        member.linkname = "/etc/passwd"
        out.addfile(member)
    with pytest.raises(DatasetError, match="a link or a device"):
        fetch(str(tmp_path / "bad.tar"), request(tmp_path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.zst"])
@pytest.mark.parametrize("other_name", ["3_toy/a.png", "./3_toy/a.png", "3_toy//a.png"])
def test_an_archive_with_a_name_twice_is_refused_with_the_name(tmp_path, suffix, other_name):
    """As `tar --append` leaves it; one of the two pictures would be lost in silence."""
    entries = [("3_toy/a.png", b"one"), ("3_toy/b.png", b"x"), (other_name, b"another")]
    archive, plain = tmp_path / f"photos{suffix}", io.BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as out:
            for name, content in entries:
                out.writestr(zipfile.ZipInfo(name), content)
    else:
        with tarfile.open(fileobj=plain, mode="w:gz" if suffix == ".tar.gz" else "w") as out:
            for name, content in entries:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
        content = plain.getvalue()
        is_zst = suffix == ".tar.zst"
        archive.write_bytes(zstandard.ZstdCompressor().compress(content) if is_zst else content)
    with pytest.raises(DatasetError, match=r"holds 1 names more than once: a\.png"):
        fetch(str(archive), request(tmp_path))
    assert not list((tmp_path / "cache").iterdir()), "nothing of it is used"


def test_a_bomb_is_bounded(tmp_path):
    archive = zip_with(tmp_path / "bomb.zip", "10_toy/zeros.png", bytes(150 * 1024**2))
    with pytest.raises(DatasetError, match="200 times its size"):
        fetch(str(archive), request(tmp_path))
    with pytest.raises(DatasetError, match="more than"):
        fetch(str(archive), request(tmp_path, max_bytes=1024**2))
    assert not list((tmp_path / "cache").iterdir())


def test_what_is_no_archive_and_what_is_not_there(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 cut")
    for source in ("a.zip", "missing", "ftp://x/y.zip"):
        named = source if "://" in source else str(tmp_path / source)
        with pytest.raises(DatasetError):
            fetch(named, request(tmp_path))


class Cutting(BaseHTTPRequestHandler):
    """Sends half of what is requested, then closes, until the rest is small."""

    data = b""
    content_type = "application/zip"
    status = 200

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        rest = self.data[start:]
        self.send_response(206 if start else self.status)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("Content-Type", self.content_type)
        self.end_headers()
        self.wfile.write(rest[: max(len(rest) // 2, 600)])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    served = ThreadingHTTPServer(("127.0.0.1", 0), Cutting)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()
    thread.join()


def test_a_cut_download_resumes(tmp_path, server):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("3_toy/a.png", bytes(range(250)) * 20)
    Cutting.data, Cutting.status, Cutting.content_type = out.getvalue(), 200, "application/zip"
    digest = hashlib.sha256(Cutting.data).hexdigest()
    folder = fetch(f"{server}/set.zip", request(tmp_path, sha256=digest))
    assert (folder / "3_toy" / "a.png").stat().st_size == 5000
    with pytest.raises(DatasetError, match="SHA-256"):
        fetch(f"{server}/set.zip", request(tmp_path, sha256="0" * 64))


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [(200, "text/html", "a web page"), (404, "text/plain", "no such file"),
     (403, "text/plain", "denied")],
)  # fmt: skip
def test_refusals_of_a_server_are_distinguished(tmp_path, server, status, kind, words):
    Cutting.data, Cutting.status, Cutting.content_type = b"<html>", status, kind
    with pytest.raises(DatasetError, match=words):
        fetch(f"{server}/other{status}.zip", request(tmp_path))
