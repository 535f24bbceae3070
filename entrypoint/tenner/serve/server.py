"""Opens the port of a run's page: beside the run itself, or for a run's directory by itself."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_urlsafe

from tenner.core.addresses import MASK
from tenner.core.errors import SettingsError
from tenner.core.messages import msg
from tenner.core.parent_death import dying_with_parent
from tenner.core.run_dir import RunDir
from tenner.core.secrets import without_secrets
from tenner.serve import TOKEN_VARIABLE
from tenner.serve.access import Access

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
"""Between two starts of the page's process: doubled each time that it ends at once."""
_POLL_SECONDS = 0.2
_SECONDS_TO_END = 5.0


@dataclass(frozen=True, kw_only=True)
class PageEndpoint:
    """Where the page is reached. `token` is made anew at each start unless one was given; `outside`
    is how its address begins for those who are not on this machine, where the host provides it."""

    host: str
    port: int
    names: tuple[str, ...]
    token: str
    token_given: bool
    outside: str = ""

    @property
    def url(self) -> str:
        """The address to open; a token that was given is not shown again."""
        shown = MASK if self.token_given else self.token
        start = self.outside or f"http://{_in_url(self.host)}:{self.port}"
        return f"{start}/?token={shown}"


def page_endpoint(
    host: str, port: int, names: Sequence[str], token: str | None, environ: Mapping[str, str]
) -> PageEndpoint:
    """The endpoint for these settings. A RunPod pod knows the name of its own proxy.

    Raises SettingsError for a token that is too short to be one.
    """
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise SettingsError(
            msg(
                "{token_variable} is shorter than {shortest_token} characters",
                token_variable=TOKEN_VARIABLE,
                shortest_token=_SHORTEST_TOKEN,
            ),
            fix=msg("use a longer one, or leave it unset: one is made at each start"),
        )
    pod = environ.get("RUNPOD_POD_ID")
    known = (*names, f"{pod}-{port}.proxy.runpod.net") if pod else tuple(names)
    return PageEndpoint(
        host=host,
        port=port,
        names=known,
        token=token or token_urlsafe(24),
        token_given=token is not None,
        outside="" if host in _LOOPBACK else _outside(port, environ),
    )


_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _outside(port: int, environ: Mapping[str, str]) -> str:
    """How a rented machine's port is reached from elsewhere: RunPod's proxy by the pod's name, on
    Vast.ai the public address and the port that this one is mapped to. Empty where neither is
    known."""
    if pod := environ.get("RUNPOD_POD_ID"):
        return f"https://{pod}-{port}.proxy.runpod.net"
    address, mapped = environ.get("PUBLIC_IPADDR"), environ.get(f"VAST_TCP_PORT_{port}")
    if address and mapped:
        return f"http://{_in_url(address.strip())}:{mapped}"
    return ""


_SHORTEST_TOKEN = 16


@contextlib.contextmanager
def open_page(
    run_dir: RunDir,
    endpoint: PageEndpoint,
    *,
    environ: Mapping[str, str] | None = None,
    on_trouble: Callable[[str], None] = lambda text: None,
) -> Generator[PageEndpoint]:
    """Serve the page of the run in `run_dir` from a process of its own while the context lasts.

    Yields the endpoint as it was opened (port 0 takes a free one). `on_trouble` is called once
    where that process has ended and is started again. Raises SettingsError where the port is not
    available.
    """
    listening, opened = _listen(endpoint)
    with listening:
        page = _PageProcess(
            run_dir=run_dir,
            endpoint=opened,
            listening=listening,
            environ=without_secrets(environ),
            on_trouble=on_trouble,
        )
        page.start()
        try:
            yield opened
        finally:
            page.end()


@dataclass(kw_only=True)
class _PageProcess:
    """Runs a process that answers on a socket which this one holds open: while there is none,
    viewers' connections wait in its backlog. When it ends the run is warned, and nothing else."""

    run_dir: RunDir
    endpoint: PageEndpoint
    listening: socket.socket
    environ: Mapping[str, str]
    on_trouble: Callable[[str], None]
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run_processes, name="serve", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join(timeout=2 * _SECONDS_TO_END)

    def _run_processes(self) -> None:
        """A child ends with the thread that started it (see `dying_with_parent`), so all are
        started here."""
        pause, is_reported = FIRST_PAUSE_SECONDS, False
        while not self._ended.is_set():
            started = time.monotonic()
            try:
                why = self._serve_once()
            except OSError as error:
                why = error.strerror or type(error).__name__
            if self._ended.is_set():
                return
            if not is_reported:
                is_reported = True
                self.on_trouble(f"the page's server has ended ({why}) and is started again")
            if time.monotonic() - started > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._ended.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _serve_once(self) -> str:
        """One process from its start to its end; how it ended. Raises OSError."""
        order = {
            "run": str(self.run_dir.path.absolute()),
            "token": self.endpoint.token,
            "names": list(self.endpoint.names),
            "descriptor": self.listening.fileno(),
        }
        words = dying_with_parent((sys.executable, "-m", "tenner.serve.process"), self.environ)
        with subprocess.Popen(
            words,
            env=dict(self.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[self.listening.fileno()],
        ) as process:
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.flush()
                while process.poll() is None and not self._ended.wait(_POLL_SECONDS):
                    pass
            finally:
                self._end(process)
        code = process.returncode
        return f"signal {-code}" if code < 0 else f"code {code}"

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Close its input, by which it ends; kill one that does not."""
        with contextlib.suppress(OSError):
            if process.stdin:
                process.stdin.close()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve_forever(run_dir: RunDir, endpoint: PageEndpoint) -> None:
    """Print the page's address, and serve it until a signal ends the process.

    Raises SettingsError where the port is not available.
    """
    from tenner.serve.process import answer, limit_this_process

    listening, opened = _listen(endpoint)
    print(f"the page: {opened.url}", flush=True)
    limit_this_process()
    answer(listening, run_dir, Access(token=opened.token, names=opened.names))


def _listen(at: PageEndpoint) -> tuple[socket.socket, PageEndpoint]:
    """The listening socket, and the endpoint with the port that it got."""
    try:
        family = socket.getaddrinfo(at.host, at.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((at.host, at.port), family=family, backlog=128)
    except OSError as error:
        raise SettingsError(
            msg(
                "the page cannot be served on {host}:{port}: {strerror}",
                host=at.host,
                port=at.port,
                strerror=error.strerror or error,
            ),
            fix=msg("choose another serve_port or serve_host"),
        ) from error
    return listening, replace(at, port=int(listening.getsockname()[1]))


def _in_url(host: str) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
    return f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown
