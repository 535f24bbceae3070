"""What strangers without a token do to the page: never to the run, and not to its viewers."""

import contextlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenner.base.tiny import concept_dir
from tenner.core.run_dir import RunDir
from tenner.serve.limits import PER_ADDRESS, REQUEST_SECONDS, Connections, address_group
from tenner.serve.server import PageEndpoint, open_page, page_endpoint

TOKEN = "t" * 24
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
HALF = b"GET /live.json HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path / "run").create()
    found.report.write_text("<!doctype html>" + "page " * 1000)
    found.live.write_text(json.dumps({"state": "training"}))
    return found


@pytest.fixture
def endpoint(run_dir: RunDir) -> Iterator[PageEndpoint]:
    with open_page(run_dir, page_endpoint("127.0.0.1", 0, (), TOKEN, {})) as opened:
        yield opened


def view(endpoint: PageEndpoint, timeout: float = 30) -> int:
    url = f"http://127.0.0.1:{endpoint.port}/live.json"
    return httpx.get(url, headers=RIGHT, timeout=timeout).status_code


def half_open(port: int, number: int, address: str) -> list[socket.socket]:
    """Connections that have each sent half a header."""
    found: list[socket.socket] = []
    for _ in range(number):
        each = socket.create_connection(("127.0.0.1", port), 10, source_address=(address, 0))
        with contextlib.suppress(OSError):
            each.sendall(HALF)
        found.append(each)
    return found


def is_closed(each: socket.socket) -> bool:
    each.settimeout(0.01)
    try:
        return each.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("address", ["127.0.0.2", "127.0.0.1"], ids=["another", "the viewer's own"])
def test_600_half_open_connections_keep_no_viewer_out(endpoint: PageEndpoint, address: str) -> None:
    assert view(endpoint) == 200
    strangers = half_open(endpoint.port, 600, address)
    try:
        assert [view(endpoint) for _ in range(20)] == [200] * 20
        assert sum(not is_closed(each) for each in strangers) <= PER_ADDRESS
    finally:
        for each in strangers:
            each.close()


def test_a_request_that_does_not_come_is_not_waited_for(endpoint: PageEndpoint) -> None:
    body = f"POST /finish HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    beginnings = (b"", HALF, body.encode() + b"Content-Length: 9\r\n\r\nhalf")
    with contextlib.ExitStack() as stack:
        opened: list[tuple[socket.socket, float]] = []
        for beginning in beginnings:
            each = stack.enter_context(socket.create_connection(("127.0.0.1", endpoint.port), 5))
            each.settimeout(6 * REQUEST_SECONDS)
            each.sendall(beginning)
            opened.append((each, time.monotonic()))
        for beginning, (each, started) in zip(beginnings, opened, strict=True):
            while each.recv(65_536):
                pass
            assert time.monotonic() - started > 0.5 * REQUEST_SECONDS or b"POST" in beginning


def page_processes(parent: int) -> list[int]:
    found: list[int] = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            its = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            if its == parent and b"tenner.serve.process" in (each / "cmdline").read_bytes():
                found.append(int(each.name))
    return found


def test_a_page_whose_process_is_killed_is_there_again(run_dir: RunDir) -> None:
    messages: list[str] = []
    own = page_endpoint("127.0.0.1", 0, (), TOKEN, {})
    with open_page(run_dir, own, on_trouble=messages.append) as opened:
        assert view(opened) == 200
        (process,) = page_processes(os.getpid())
        token = (
            Path(f"/proc/{process}/environ").read_bytes()
            + Path(f"/proc/{process}/cmdline").read_bytes()
        )
        assert TOKEN.encode() not in token
        limit = Path(f"/proc/{process}/limits").read_text()
        assert int(limit.partition("Max open files")[2].split()[0]) < 1024
        os.kill(process, signal.SIGKILL)
        assert view(opened) == 200
        assert page_processes(os.getpid()) != [process]
        assert messages == ["the page's server has ended (signal 9) and is started again"]
    assert page_processes(os.getpid()) == []


JOB = {
    "base_model": "tiny",
    "dataset": str(concept_dir()),
    "resolution": "64",
    "min_bucket_reso": "64",
    "device": "cpu",
    "batch_size": "4",
    "optimizer_type": "AdamW",
    "max_train_steps": "20000",  # the test stops it when the strangers are done
    "save_every_n_epochs": "1000",
    "no_samples": "true",
    "output_name": "served",
    "serve": "true",
    "serve_port": "0",
}


@pytest.mark.long
def test_1500_half_open_connections_do_not_end_a_run_of_1024_files(tmp_path: Path) -> None:
    """What ended the run: its own descriptors were taken by those who held the line."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TENNER_")}
    log = tmp_path / "log"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with log.open("w") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c"),
                (
                    "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE,"
                    " (1024, 1024)); sys.argv[0] = 'tenner'; runpy.run_module('tenner', None,"
                    " '__main__')"
                ),
                *("train", *(f"--{k}={v}" for k, v in JOB.items())),
            ],
            cwd=tmp_path,
            env={**environ, "OMP_NUM_THREADS": "1", "TENNER_SERVE_TOKEN": TOKEN},
            stdout=out,
            stderr=out,
        )
    strangers: list[socket.socket] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        port, seen = 0, 0
        while process.poll() is None:
            line = log.read_text().partition("http://127.0.0.1:")[2]
            port = int(line.partition("/")[0] or 0)
            if port and len(strangers) < 1500:
                strangers += half_open(port, 1500, "127.0.0.2")
                seen = view(PageEndpoint(host="", port=port, names=(), token="", token_given=True))
                (tmp_path / "output" / "served" / "STOP").touch()
            time.sleep(0.1)
        assert seen in (200, 404), "the viewer is answered (404: no page is written yet)"
        assert len(strangers) == 1500
        assert process.returncode == 0, log.read_text()
        assert "Too many open files" not in log.read_text()
    finally:
        process.kill()
        process.wait()
        for each in strangers:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["connect", "connect", "connect", "request", "answer", "leave"]),
            st.integers(0, 5),
        ),
        max_size=200,
    )
)
def test_no_more_than_the_limits_are_held_and_none_that_is_answered_is_closed(
    acts: list[tuple[str, int]],
) -> None:
    found = Connections[int](per_address=4, overall=10)
    where, answered, chance = dict[int, str](), set[int](), random.Random(len(acts))
    for number, (act, address) in enumerate(acts):
        some = chance.choice(list(where)) if where else None
        if act == "connect":
            where[number] = f"10.0.0.{address}"
            if (closed := found.admit(number, where[number])) is not None:
                assert closed not in answered
                found.leave(closed)
                del where[closed]
        elif some is not None and act == "request":
            found.is_answered(some)
            answered.add(some)
        elif some is not None and act == "answer":
            found.waits(some)
            answered.discard(some)
        elif some is not None:
            found.leave(some)
            answered.discard(some)
            del where[some]
        assert len(where) <= 10
        assert all(list(where.values()).count(each) <= 4 for each in where.values())


def test_addresses_that_one_stranger_has_count_as_one() -> None:
    assert address_group("2001:db8::1") == address_group("2001:db8::ffff")
    assert address_group("2001:db8::1") != address_group("2001:db8:0:1::1")
    assert address_group("::ffff:10.0.0.1") == address_group("10.0.0.1")
