"""A host's API and a webhook on loopback that answer as set, and count requests."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class SeenRequest:
    method: str
    path: str
    key: str
    body: Any


@dataclass
class FakeHost:
    """`answer` gives status and JSON for a request; a status of 0 never answers."""

    port: int = 0
    answer: Callable[[SeenRequest], tuple[int, Any]] = lambda sent: (200, {})
    requests: list[SeenRequest] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, method: str, end: str = "") -> int:
        return sum(a.method == method and a.path.endswith(end) for a in self.requests)


@contextmanager
def fake_host() -> Iterator[FakeHost]:
    host, over = FakeHost(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            sent = SeenRequest(self.command, self.path, key, json.loads(raw) if raw else None)
            host.requests.append(sent)
            status, body = host.answer(sent)
            if status == 0:
                over.wait(60)
                return
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    host.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not condition():
        time.sleep(0.02)
    return condition()
