"""The served page: only for those with the token, only under its own names."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tenner.core.errors import SettingsError
from tenner.core.run_dir import RunDir
from tenner.serve.server import PageEndpoint, open_page, page_endpoint

TOKEN = "t" * 24
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path / "run").create()
    found.settings.write_text("output_name = 'x'\n")
    found.report.write_text("<!doctype html>" + "page " * 1000)
    found.live.write_text(json.dumps({"state": "training", "parts": {}}))
    return found


@pytest.fixture
def client(run_dir: RunDir) -> Iterator[httpx.Client]:
    endpoint = page_endpoint("127.0.0.1", 0, ("proxy.example",), TOKEN, {"RUNPOD_POD_ID": "pod1"})
    with open_page(run_dir, endpoint) as opened, httpx.Client(base_url=_base(opened)) as found:
        yield found


def _base(endpoint: PageEndpoint) -> str:
    return f"http://127.0.0.1:{endpoint.port}"


@pytest.mark.parametrize(
    ("host", "environ", "start"),
    [
        ("0.0.0.0", {"RUNPOD_POD_ID": "pod1"}, "https://pod1-8321.proxy.runpod.net"),
        (
            "0.0.0.0",
            {"PUBLIC_IPADDR": "203.0.113.7", "VAST_TCP_PORT_8321": "41234"},
            "http://203.0.113.7:41234",
        ),
        ("0.0.0.0", {"PUBLIC_IPADDR": "203.0.113.7"}, "http://127.0.0.1:8321"),  # not mapped
        ("127.0.0.1", {"RUNPOD_POD_ID": "pod1"}, "http://127.0.0.1:8321"),  # no proxy gets in
    ],
)
def test_the_address_is_the_one_that_works_from_outside(
    host: str, environ: dict[str, str], start: str
) -> None:
    endpoint = page_endpoint(host, 8321, (), TOKEN, environ)
    assert endpoint.url == f"{start}/?token=***"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {}),
        ("/?token=", {}),
        (f"/?token={TOKEN}x", {}),
        (f"/?token={TOKEN[:-1]}", {}),
        ("/?token=%F0%9F%98%80", {}),
        ("/live.json", {"Authorization": "Bearer nonsense"}),
        ("/live.json", {"Authorization": f"Basic {TOKEN}"}),
    ],
)
def test_nothing_is_reported_without_the_token(
    client: httpx.Client, path: str, headers: dict[str, str]
) -> None:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 401
    assert "page page" not in answer.text


@pytest.mark.parametrize(
    ("host", "right"),
    [
        ("localhost:{}", True),
        ("[::1]:{}", True),
        ("10.1.2.3:{}", True),
        ("proxy.example", True),
        ("PROXY.example:443", True),
        ("pod1-0.proxy.runpod.net", True),
        ("evil.example:{}", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_it_answers_to_its_own_names_alone(client: httpx.Client, host: str, right: bool) -> None:
    named = host.format(client.base_url.port)
    answer = client.get("/live.json", headers={**RIGHT, "Host": named})
    assert (answer.status_code == 200) is right, answer.status_code
    if not right:
        assert answer.status_code in (400, 421)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
    ],
)
def test_other_origins_are_refused(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    answer = client.get("/live.json", headers={**RIGHT, **headers})
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_answers_carry_the_headers_that_fence_a_page(client: httpx.Client) -> None:
    for answer in (client.get(f"/?token={TOKEN}"), client.get("/")):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache, private"
        assert "server" not in answer.headers


def test_only_the_page_its_parts_and_the_button_are_there(client: httpx.Client) -> None:
    for path in ("/settings.toml", "/../run/settings.toml", "/%2e%2e/x", "/STOP", "/docs"):
        assert client.get(path, headers=RIGHT).status_code == 404
    assert client.post("/live.json", headers=RIGHT).status_code == 405
    assert client.get("/finish", headers=RIGHT).status_code == 405


def test_weights_are_sent_to_who_has_the_token_and_nothing_beside_them(
    client: httpx.Client, run_dir: RunDir
) -> None:
    weights = run_dir.checkpoints / "star v1.safetensors"
    weights.write_bytes(b"weights" * 300_000)
    (run_dir.checkpoints / "state.json").write_text("{}")
    (run_dir.checkpoints / "folder.safetensors").mkdir()
    path = "/checkpoints/star%20v1.safetensors"
    assert client.get(path).status_code == 401
    assert client.get(f"{path}?token={TOKEN}x").status_code == 401
    foreign = {**RIGHT, "Origin": "https://evil.example"}
    assert client.get(path, headers=foreign).status_code == 403
    answer = client.get(f"{path}?token={TOKEN}")
    assert answer.content == weights.read_bytes()
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for name in ("state.json", "folder.safetensors", "..%2Fledger.json", "%2e%2e%2fx.safetensors"):
        assert client.get(f"/checkpoints/{name}", headers=RIGHT).status_code == 404


def test_what_did_not_change_is_not_sent_again(client: httpx.Client, run_dir: RunDir) -> None:
    first = client.get("/", headers=RIGHT)
    assert first.headers["content-encoding"] == "gzip"
    assert first.text.startswith("<!doctype html>")
    seen = {**RIGHT, "If-None-Match": first.headers["etag"]}
    assert client.get("/", headers=seen).status_code == 304
    run_dir.report.write_text("another")
    assert client.get("/", headers=seen).text == "another"
    plain = client.get("/", headers={**RIGHT, "Accept-Encoding": "identity"})
    assert plain.text == "another"
    assert "content-encoding" not in plain.headers


def test_a_page_that_is_not_there_yet_is_reported(client: httpx.Client, run_dir: RunDir) -> None:
    run_dir.report.unlink()
    answer = client.get("/", headers=RIGHT)
    assert (answer.status_code, "try again" in answer.text) == (404, True)


def test_finishing_needs_the_token_in_a_header_and_a_run_that_trains(
    client: httpx.Client, run_dir: RunDir
) -> None:
    assert client.post("/finish").status_code == 401
    assert client.post(f"/finish?token={TOKEN}").status_code == 401
    foreign = {**RIGHT, "Origin": "https://evil.example"}
    assert client.post("/finish", headers=foreign).status_code == 403
    assert not run_dir.stop_file.exists()
    assert client.post("/finish", headers=RIGHT).status_code == 202
    assert run_dir.stop_file.is_file()
    run_dir.stop_file.unlink()
    run_dir.live.write_text(json.dumps({"state": "delivered"}))
    assert client.post("/finish", headers=RIGHT).status_code == 409
    assert not run_dir.stop_file.exists()


def test_a_port_in_use_and_a_short_token_are_settings_errors(run_dir: RunDir) -> None:
    first = page_endpoint("127.0.0.1", 0, (), None, {})
    with open_page(run_dir, first) as opened:
        taken = page_endpoint("127.0.0.1", opened.port, (), None, {})
        with pytest.raises(SettingsError, match="cannot be served"), open_page(run_dir, taken):
            pass
    with pytest.raises(SettingsError, match="shorter than 16"):
        page_endpoint("127.0.0.1", 0, (), "short", {})


def test_tokens_differ_and_one_that_was_given_is_not_shown() -> None:
    made = {page_endpoint("127.0.0.1", 1, (), None, {}).token for _ in range(10)}
    assert len(made) == 10
    assert TOKEN not in page_endpoint("127.0.0.1", 1, (), TOKEN, {}).url


def test_the_command_serves_a_run_until_it_is_stopped(run_dir: RunDir) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TENNER_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tenner", "serve", str(run_dir.path), "--port", "0"],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S{32}", line)
        assert url, line
        assert httpx.get(url[0]).status_code == 200
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        process.stdout.close()


def test_the_command_needs_a_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tenner", "serve", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "not the directory of a run" in done.stderr


def test_a_batch_is_served_with_the_pages_of_its_jobs(tmp_path: Path) -> None:
    """Links carry the token; a job that there is not, or that was never started, has no page."""
    folder, job = tmp_path / "jobs.batch", RunDir(tmp_path / "cat & dog").create()
    folder.mkdir()
    job.report.write_text("<!doctype html>the job's page")
    job.live.write_text(json.dumps({"state": "training"}))
    runs = [{"name": name, "run": f"output/{name}"} for name in ("cat & dog", "later")]
    (folder / "batch.json").write_text(json.dumps({"format": 1, "jobs": runs}))
    link = '<a href="../cat &amp; dog/report.html">'
    (folder / "batch.html").write_text(f"<!doctype html>{link}")
    endpoint = page_endpoint("127.0.0.1", 0, (), TOKEN, {})
    with (
        open_page(RunDir(folder), endpoint) as opened,
        httpx.Client(base_url=_base(opened)) as client,
    ):
        assert client.get("/").status_code == 401
        page = client.get("/", params={"token": TOKEN})
        found = re.search(r'href="([^"]+)"', page.text)
        assert found
        assert found[1] == f"cat%20%26%20dog/report.html?token={TOKEN}"
        assert "the job's page" in client.get(found[1]).text
        assert client.get("cat%20%26%20dog/live.json", headers=RIGHT).json()["state"] == "training"
        for path in ("cat%20%26%20dog/report.html", "cat%20%26%20dog/live.json"):
            assert client.get(path).status_code == 401
        for missing in ("later", "..", "other", "jobs.batch"):
            answer = client.get(f"{missing}/report.html", headers=RIGHT)
            assert answer.status_code == 404
        assert client.post("later/finish", headers=RIGHT).status_code == 409
        assert client.post("cat%20%26%20dog/finish", headers=RIGHT).status_code == 202
        assert job.stop_file.is_file()
