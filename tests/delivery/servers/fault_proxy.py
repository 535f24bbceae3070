"""A proxy on loopback that spoils chosen requests: errors, cuts, silence, sizes that lie."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class SeenRequest:
    """A request, as a fault sees it. `number` counts from 1 over all requests."""

    method: str
    path: str
    headers: dict[str, str]
    number: int


@dataclass(frozen=True)
class Spoil:
    """What is done to a request: answered with `status`, `cut` (before or in the middle of the
    answer), done but not answered (`lose_answer`), left waiting until the end (`silent`), or given
    another Content-Length or ETag on HEAD, or another ETag or SHA-256 on other calls."""

    status: int = 0
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    lose_answer: bool = False
    silent: bool = False
    head_size: int | None = None
    head_etag: str = ""
    etag: str = ""
    sha256: str = ""


@dataclass
class Proxy:
    port: int
    fault: Callable[[SeenRequest], Spoil | None] = lambda sent: None
    seen: list[SeenRequest] = field(default_factory=list)
    done: list[SeenRequest] = field(default_factory=list)
    """What the server behind it has done, answered or not."""
    ended: threading.Event = field(default_factory=threading.Event)


@contextmanager
def fault_proxy(upstream_port: int) -> Iterator[Proxy]:  # noqa: C901
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _serve(self) -> None:
            if self.headers.get("Expect", "").lower() == "100-continue":
                pass  # http.server has answered it already
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                sent = SeenRequest(
                    self.command, self.path, dict(self.headers.items()), len(proxy.seen) + 1
                )
                proxy.seen.append(sent)
                spoil = proxy.fault(sent) or Spoil()
            if spoil.silent:
                proxy.ended.wait(60)
            if spoil.silent or (spoil.cut and self.command != "GET"):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if spoil.status:
                headers = {"Content-Type": "application/xml", **spoil.headers}
                self._answer(spoil.status, headers, spoil.body.encode())
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
            # Closed whatever happens: a socket left open fails whichever test runs when it goes.
            upstream = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=60)
            with contextlib.closing(upstream):
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
            environ = {
                k: v
                for k, v in answer.getheaders()
                if k.lower() not in {"connection", "transfer-encoding", "date", "server"}
            }
            if answer.status < 400:
                proxy.done.append(sent)
            if spoil.lose_answer:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if spoil.head_size is not None and self.command == "HEAD":
                environ = {k: v for k, v in environ.items() if k.lower() != "content-length"}
                environ["Content-Length"] = str(spoil.head_size)
            etag = spoil.head_etag if self.command == "HEAD" else spoil.etag
            if etag:
                environ = {k: v for k, v in environ.items() if k.lower() != "etag"}
                environ["ETag"] = etag
            if spoil.sha256:
                environ = {k: v for k, v in environ.items() if k.lower() != "x-amz-checksum-sha256"}
                environ["x-amz-checksum-sha256"] = spoil.sha256
            if spoil.cut:
                self._answer(answer.status, environ, content[: len(content) // 2], len(content))
                self.close_connection = True
                return
            self._answer(answer.status, environ, content)

        def _answer(
            self, status: int, headers: dict[str, str], content: bytes, length: int | None = None
        ) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if not (self.command != "HEAD" and name.lower() == "content-length"):
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # a client that was killed
                super().handle()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = Proxy(port=server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
