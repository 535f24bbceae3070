"""The process that serves a run's page: `python -m tenner.serve.process`, with its instructions (a
line of JSON) on stdin.

It is apart from the run, so that attacks on it do not reach the run: it has few descriptors,
little memory and a low priority, is the first that the kernel ends for memory,
and can read two files and write one. It ends when its stdin is closed.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from tenner.core.priority import NICE
from tenner.core.run_dir import RunDir
from tenner.serve.access import Access
from tenner.serve.app import Served, make_app
from tenner.serve.limits import OVERALL, Connections, limited_protocol

BACKLOG = 64
"""Connections that are taken in at a time, before any is judged."""
_LIMITS = {
    resource.RLIMIT_NOFILE: OVERALL + 2 * BACKLOG + 64,
    resource.RLIMIT_AS: 2 << 30,
    resource.RLIMIT_FSIZE: 1 << 20,
    resource.RLIMIT_CORE: 0,
}


def main() -> int:
    """Serve by the instructions in the first line of stdin, until stdin is closed."""
    order = json.loads(sys.stdin.readline())
    limit_this_process()
    os.nice(NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")

    def end_with_the_run() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_the_run, daemon=True).start()
    listening = socket.socket(fileno=int(order["descriptor"]))
    access = Access(token=order["token"], names=tuple(order["names"]))
    answer(listening, RunDir(Path(order["run"])), access)
    return 0


def limit_this_process() -> None:
    """Take from this process what the page does not need."""
    for kind, most in _LIMITS.items():
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))


def answer(listening: socket.socket, run_dir: RunDir, access: Access) -> None:
    """Answer on a listening socket until a signal ends it."""
    config = uvicorn.Config(
        make_app(Served(run_dir=run_dir, access=access)),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http=limited_protocol(Connections()),
        loop="asyncio",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=16_384,
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    sys.exit(main())
