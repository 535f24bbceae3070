"""What the server answers: the page, its live parts, and the wish to finish after this epoch.

Files are sent as the run wrote them; nothing is made for a request, so a hundred viewers cost the
run next to nothing.
"""

import gzip
import json
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tenner.core.files import write_atomically
from tenner.core.run_dir import RunDir
from tenner.report.page import content_policy
from tenner.serve.access import Access, PageRequest

_HEADERS = {
    "Content-Security-Policy": f"{content_policy()}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache, private",
    "X-Robots-Tag": "noindex",
}
_GZIP_LEVEL = 3


@dataclass(frozen=True, kw_only=True)
class _Version:
    """A file as it was at one time."""

    etag: str
    plain: bytes
    zipped: bytes


class Shelf:
    """The newest version of a file, read and compressed once for all who ask."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._current: _Version | None = None

    def current(self) -> _Version | None:
        """What was read, where it still is the newest. Raises FileNotFoundError."""
        current = self._current
        return current if current is not None and current.etag == self._etag() else None

    def newest(self) -> _Version:
        """Raises FileNotFoundError."""
        with self._lock:
            etag = self._etag()
            if self._current is None or self._current.etag != etag:
                plain = self._path.read_bytes()
                zipped = gzip.compress(plain, _GZIP_LEVEL, mtime=0)
                self._current = _Version(etag=etag, plain=plain, zipped=zipped)
            return self._current

    def _etag(self) -> str:
        status = self._path.stat()
        return f'W/"{status.st_mtime_ns:x}-{status.st_size:x}"'


@dataclass(frozen=True, kw_only=True)
class Served:
    """A run's directory and who may look into it."""

    run_dir: RunDir
    access: Access
    shelves: dict[Path, Shelf] = field(default_factory=dict[Path, Shelf])

    async def page(self, request: Request) -> Response:
        return await self._file(request, self.run_dir.report, "text/html; charset=utf-8")

    async def live(self, request: Request) -> Response:
        return await self._file(request, self.run_dir.live, "application/json")

    async def finish(self, request: Request) -> Response:
        """Ask the run to end after this epoch, as `touch RUN/STOP` does."""
        if refusal := self._refusal(request, changes_something=True):
            return refusal
        if not await run_in_threadpool(self._trains):
            return _text(HTTPStatus.CONFLICT, "the run is not training")
        write_atomically(self.run_dir.stop_file, "")
        return _text(HTTPStatus.ACCEPTED, "the run ends after this epoch")

    def _trains(self) -> bool:
        try:
            live = json.loads(self.run_dir.live.read_bytes())
        except (OSError, ValueError):
            return False
        return live.get("state") == "training"

    async def _file(self, request: Request, path: Path, kind: str) -> Response:
        if refusal := self._refusal(request):
            return refusal
        shelf = self.shelves.setdefault(path, Shelf(path))
        try:
            found = shelf.current() or await run_in_threadpool(shelf.newest)
        except FileNotFoundError:
            return _text(HTTPStatus.NOT_FOUND, "the run has not written its page yet; try again")
        headers = {**_HEADERS, "ETag": found.etag, "Vary": "Accept-Encoding"}
        if found.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(found.plain, media_type=kind, headers=headers)
        headers["Content-Encoding"] = "gzip"
        return Response(found.zipped, media_type=kind, headers=headers)

    def _refusal(self, request: Request, *, changes_something: bool = False) -> Response | None:
        page_request = PageRequest(
            headers=request.headers,
            query_token=request.query_params.get("token", ""),
            changes_something=changes_something,
        )
        refusal = self.access.refuses(page_request)
        return _text(refusal.status, refusal.text) if refusal else None


def make_app(served: Served) -> Starlette:
    """The ASGI application for one run."""
    return Starlette(
        routes=[
            Route("/", served.page, methods=["GET"]),
            Route("/live.json", served.live, methods=["GET"]),
            Route("/finish", served.finish, methods=["POST"]),
        ]
    )


def _text(status: HTTPStatus, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status_code=status, headers=_HEADERS)
