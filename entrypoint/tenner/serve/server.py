"""Opens the port of a run's page: beside the run itself, or for a run's directory by itself."""

import contextlib
import socket
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import token_urlsafe

import uvicorn

from tenner.errors import SettingsError
from tenner.running.run_dir import RunDir
from tenner.secrets import MASK
from tenner.serve import TOKEN_VARIABLE
from tenner.serve.access import Access
from tenner.serve.app import Served, make_app
from tenner.supervision.priority import yield_thread

MAX_CONNECTIONS = 400
"""More at a time are told to come back: the page is for people, and there is one of it."""


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where the page is reached. `token` is made anew at each start unless one was given."""

    host: str
    port: int
    names: tuple[str, ...]
    token: str
    token_given: bool

    @property
    def url(self) -> str:
        """The address to open; a token that was given is not shown again."""
        shown = MASK if self.token_given else self.token
        return f"http://{_in_url(self.host)}:{self.port}/?token={shown}"


def make_door(
    host: str, port: int, names: Sequence[str], token: str | None, environ: Mapping[str, str]
) -> Door:
    """The door for these settings. A RunPod pod knows the name of its own proxy.

    Raises SettingsError for a token that is too short to be one.
    """
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise SettingsError(
            f"{TOKEN_VARIABLE} is shorter than {_SHORTEST_TOKEN} characters",
            fix="use a longer one, or leave it unset: one is made at each start",
        )
    pod = environ.get("RUNPOD_POD_ID")
    known = (*names, f"{pod}-{port}.proxy.runpod.net") if pod else tuple(names)
    return Door(
        host=host,
        port=port,
        names=known,
        token=token or token_urlsafe(24),
        token_given=token is not None,
    )


_SHORTEST_TOKEN = 16


@contextlib.contextmanager
def open_page(place: RunDir, door: Door) -> Generator[Door]:
    """Serve the page of the run in `place` from a thread while the context lasts.

    Yields the door as it was opened (port 0 takes a free one). Raises SettingsError where the
    port cannot be had.
    """
    listening, opened = _listen(door)
    server = _server(place, opened)

    def serve() -> None:
        yield_thread()  # the run beside it goes first
        server.run(sockets=[listening])

    thread = threading.Thread(target=serve, name="serve", daemon=True)
    thread.start()
    try:
        yield opened
    finally:
        server.should_exit = True
        thread.join(timeout=5)
        listening.close()


def serve_forever(place: RunDir, door: Door) -> None:
    """Say where the page is, and serve it until a signal ends the process.

    Raises SettingsError where the port cannot be had.
    """
    listening, opened = _listen(door)
    print(f"the page: {opened.url}", flush=True)
    _server(place, opened).run(sockets=[listening])


def _listen(door: Door) -> tuple[socket.socket, Door]:
    """The listening socket, and the door with the port that it got."""
    try:
        family = socket.getaddrinfo(door.host, door.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((door.host, door.port), family=family, backlog=128)
    except OSError as error:
        raise SettingsError(
            f"the page cannot be served on {door.host}:{door.port}: {error.strerror or error}",
            fix="choose another serve_port or serve_host",
        ) from error
    return listening, replace(door, port=int(listening.getsockname()[1]))


def _server(place: RunDir, door: Door) -> uvicorn.Server:
    app = make_app(Served(place=place, access=Access(token=door.token, names=door.names)))
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=16_384,
        )
    )


def _in_url(host: str) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
    return f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown
