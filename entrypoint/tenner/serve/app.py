"""What the server answers: the page, its live parts, trained weights, and the request to finish
after this epoch.

Files are sent as the run wrote them; nothing is made for a request, so a hundred viewers cost the
run next to nothing.
"""

import gzip
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Literal

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from tenner.core.files import write_atomically
from tenner.core.run_dir import RunDir
from tenner.serve.access import Access, PageRequest
from tenner.serve.batch_dir import SUMMARY, is_batch, job_dirs, with_token
from tenner.ui.web_page import content_policy, page_style

_POLICY = content_policy(page_style(), connects=True)
_HEADERS = {
    "Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'",
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
    """One version of a file: its bytes as they are and compressed by gzip."""

    etag: str
    plain: bytes
    zipped: bytes


class CachedFile:
    """The newest version of a file, read and compressed once for all requests."""

    def __init__(self, path: Path, change: Callable[[bytes], bytes] = bytes) -> None:
        self._path = path
        self._change = change
        self._lock = threading.Lock()
        self._current: _Version | None = None

    def current(self) -> _Version | None:
        """The cached version where it is still the newest, else None. Raises FileNotFoundError."""
        current = self._current
        return current if current is not None and current.etag == self._etag() else None

    def newest(self) -> _Version:
        """The newest version, read again where the file has changed. Raises FileNotFoundError."""
        with self._lock:
            etag = self._etag()
            if self._current is None or self._current.etag != etag:
                plain = self._change(self._path.read_bytes())
                zipped = gzip.compress(plain, _GZIP_LEVEL, mtime=0)
                self._current = _Version(etag=etag, plain=plain, zipped=zipped)
            return self._current

    def _etag(self) -> str:
        status = self._path.stat()
        return f'W/"{status.st_mtime_ns:x}-{status.st_size:x}"'


@dataclass(frozen=True, kw_only=True)
class Served:
    """A run's directory, or that of a batch, and who may look into it."""

    run_dir: RunDir
    access: Access
    cached_files: dict[Path, CachedFile] = field(default_factory=dict[Path, CachedFile])

    async def page(self, request: Request) -> Response:
        return await self._file(request, "report", "text/html; charset=utf-8")

    async def live(self, request: Request) -> Response:
        return await self._file(request, "live", "application/json")

    async def weights(self, request: Request) -> Response:
        """One of the run's weights files, for the link on its page."""
        if refusal := self._refusal(request):
            return refusal
        path = await run_in_threadpool(self._weights_file, request)
        if path is None:
            return _text(HTTPStatus.NOT_FOUND, "no such weights")
        return FileResponse(
            path, media_type="application/octet-stream", filename=path.name, headers=_HEADERS
        )

    async def finish(self, request: Request) -> Response:
        """Request that the run ends after this epoch, as `touch RUN/STOP` does."""
        if refusal := self._refusal(request, changes_something=True):
            return refusal
        run_dir = await run_in_threadpool(self._run_dir, request)
        if run_dir is None or not await run_in_threadpool(_trains, run_dir):
            return _text(HTTPStatus.CONFLICT, "the run is not training")
        write_atomically(run_dir.stop_file, "")
        return _text(HTTPStatus.ACCEPTED, "the run ends after this epoch")

    def _run_dir(self, request: Request) -> RunDir | None:
        """The run that a request is about: this one, or a job of this batch. None for no such."""
        name = request.path_params.get("job")
        return self.run_dir if name is None else job_dirs(self.run_dir.path).get(name)

    def _weights_file(self, request: Request) -> Path | None:
        run_dir, name = self._run_dir(request), request.path_params["file"]
        if run_dir is None or not name.endswith(".safetensors"):
            return None
        try:
            found = (each for each in run_dir.checkpoints.iterdir() if each.name == name)
            return next((each for each in found if each.is_file()), None)
        except OSError:
            return None

    def _cached_file(self, request: Request, what: Literal["report", "live"]) -> CachedFile:
        """The page or its live parts of the run that is requested. Raises FileNotFoundError."""
        run_dir = self._run_dir(request)
        if run_dir is None:
            raise FileNotFoundError(request.url.path)
        path = run_dir.report if what == "report" else run_dir.live
        if what == "report" and is_batch(run_dir.path):
            path, token = run_dir.path / SUMMARY, self.access.token
            return self.cached_files.setdefault(
                path, CachedFile(path, lambda page: with_token(page, token))
            )
        return self.cached_files.setdefault(path, CachedFile(path))

    async def _file(self, request: Request, what: Literal["report", "live"], kind: str) -> Response:
        """The answer with the page or its live parts: 304 where the client has this version, else
        the content, compressed where the client takes that."""
        if refusal := self._refusal(request):
            return refusal
        try:
            cached = await run_in_threadpool(self._cached_file, request, what)
            found = cached.current() or await run_in_threadpool(cached.newest)
        except FileNotFoundError:
            return _text(HTTPStatus.NOT_FOUND, "the run has not written its page yet; try again")
        headers = {**self._headers(request), "ETag": found.etag, "Vary": "Accept-Encoding"}
        if found.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(found.plain, media_type=kind, headers=headers)
        headers["Content-Encoding"] = "gzip"
        return Response(found.zipped, media_type=kind, headers=headers)

    def _headers(self, request: Request) -> dict[str, str]:
        """A batch's summary names the policy for its own style itself."""
        is_summary = "job" not in request.path_params and is_batch(self.run_dir.path)
        policy = {"Content-Security-Policy": "frame-ancestors 'none'"} if is_summary else {}
        return {**_HEADERS, **policy}

    def _refusal(self, request: Request, *, changes_something: bool = False) -> Response | None:
        page_request = PageRequest(
            headers=request.headers,
            query_token=request.query_params.get("token", ""),
            changes_something=changes_something,
        )
        refusal = self.access.refuses(page_request)
        return _text(refusal.status, refusal.text) if refusal else None


def make_app(served: Served) -> Starlette:
    """The ASGI application for one run, or one batch."""
    return Starlette(
        routes=[
            Route("/", served.page, methods=["GET"]),
            Route("/live.json", served.live, methods=["GET"]),
            Route("/checkpoints/{file}", served.weights, methods=["GET"]),
            Route("/finish", served.finish, methods=["POST"]),
            Route("/{job}/report.html", served.page, methods=["GET"]),
            Route("/{job}/live.json", served.live, methods=["GET"]),
            Route("/{job}/checkpoints/{file}", served.weights, methods=["GET"]),
            Route("/{job}/finish", served.finish, methods=["POST"]),
        ]
    )


def _trains(run_dir: RunDir) -> bool:
    try:
        live = json.loads(run_dir.live.read_bytes())
    except (OSError, ValueError):
        return False
    return live.get("state") == "training"


def _text(status: HTTPStatus, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status_code=status, headers=_HEADERS)
