"""The build's download of a base model: it goes on after a cut, and takes nothing but the file."""

import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

FETCH = Path(__file__).resolve().parents[2] / "docker" / "fetch_model.py"
CONTENT = bytes(range(256)) * 400
URL_PATH = "/some/model/resolve/abc/model.safetensors"


class CuttingHost(http.server.BaseHTTPRequestHandler):
    """Sends half of what is left at the first request for it, and the rest at the next."""

    asked: list[str | None]

    def do_GET(self) -> None:
        if self.path != URL_PATH:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        type(self).asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = len(CONTENT) if asked else len(CONTENT) // 2
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *words: object) -> None:
        del words


@pytest.fixture
def host() -> Iterator[str]:
    CuttingHost.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), CuttingHost) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def fetch(host: str, folder: Path, **facts: object) -> subprocess.CompletedProcess[str]:
    facts = {
        "id": "some/model",
        "revision": "abc",
        "file": "model.safetensors",
        "num_bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "licence": "openrail++",
        **facts,
    }
    models = folder / "models.toml"
    lines = [f"{key} = {value!r}" for key, value in facts.items()]
    models.write_text("\n".join(["[some]", *lines]))
    return subprocess.run(
        [sys.executable, FETCH, "some", models, folder / "models", host],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_cut_download_goes_on_where_it_was(host: str, tmp_path: Path) -> None:
    done = fetch(host, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "some.safetensors").read_bytes() == CONTENT
    assert CuttingHost.asked == [None, f"bytes={len(CONTENT) // 2}-"]
    assert "licence: openrail++" in (tmp_path / "models" / "some.txt").read_text()


def test_another_file_under_that_name_is_refused_and_not_kept(host: str, tmp_path: Path) -> None:
    done = fetch(host, tmp_path, sha256="0" * 64)
    assert done.returncode != 0
    assert "SHA-256" in done.stderr
    assert list((tmp_path / "models").iterdir()) == []


def test_what_is_not_there_is_not_asked_for_again(host: str, tmp_path: Path) -> None:
    done = fetch(host, tmp_path, file="other.safetensors")
    assert done.returncode != 0
    assert "404" in done.stderr
    assert "try 2" not in done.stderr
