"""A process that trains and draws one job after another, with the base model loaded throughout.

`python -m tenner.warm.worker SOCKET`. Jobs are run on the main thread by the same functions as in
separate processes; each connection has a thread that reads the client's messages. After a failed
job the worker ends, so that the next one starts in a clean process; it also ends when its input
closes, that is, with the process that started it.
"""
# pyright: reportUnknownMemberType=false

import codecs
import contextlib
import gc
import json
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch

from tenner.engines.native import train
from tenner.engines.native.cache import CachedBase
from tenner.sample import draw
from tenner.sample.cache import CachedPipeline

Work = Callable[[list[str]], int]


class Worker:
    """The cached base and sampling pipeline, and the jobs that use them."""

    def __init__(self) -> None:
        self.base = CachedBase()
        self.pipeline = CachedPipeline()
        self.modules: dict[str, Work] = {
            "tenner.engines.native.train": self._train,
            "tenner.sample.draw": self._draw,
        }

    def _train(self, arguments: list[str]) -> int:
        return train.main(arguments, self.base)

    def _draw(self, arguments: list[str]) -> int:
        self.pipeline.free_memory = self.base.drop
        try:
            return draw.main(arguments, self.pipeline.load)
        finally:
            self.pipeline.rest()

    def run(self, module: str, arguments: list[str]) -> int:
        """Run a job; returns the exit code that it would have as a process."""
        try:
            return self.modules[module](arguments)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - a process would print it and exit with 1
            traceback.print_exc()
            return 1


@dataclass(kw_only=True)
class Job:
    """A job that a client requested. Messages come from two threads, so `send` has a lock."""

    client: socket.socket
    module: str
    arguments: list[str]
    is_over: bool = False
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: dict[str, Any]) -> None:
        with self._sending, contextlib.suppress(OSError):  # `_listen` handles a lost client
            self.client.sendall(json.dumps(message).encode() + b"\n")


class Server:
    """Accepts one job at a time; other clients get `busy`."""

    def __init__(self, address: Path) -> None:
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.busy = threading.Lock()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(address))
        self.socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                client, _ = self.socket.accept()
                threading.Thread(target=self._listen, args=(client,), daemon=True).start()

    def _listen(self, client: socket.socket) -> None:
        """Read one request, and then the signals for its job."""
        with client, client.makefile("rb") as lines, contextlib.suppress(OSError):
            request = json.loads(lines.readline() or b"{}")
            if "module" not in request or not self.busy.acquire(blocking=False):
                client.sendall(json.dumps({"busy": self.busy.locked()}).encode() + b"\n")
                return
            job = Job(client=client, module=request["module"], arguments=request["arguments"])
            job.send({"busy": False})
            self.jobs.put(job)
            for line in lines:
                if not job.is_over:
                    os.kill(os.getpid(), json.loads(line)["signal"])
            if not job.is_over:  # the client was killed
                os._exit(1)


def main(argv: Sequence[str]) -> NoReturn:
    """Run jobs until the input closes or a job fails; the process then ends with its exit code."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    worker, server = Worker(), Server(Path(argv[0]))
    while True:
        job = server.jobs.get()
        with _output_to(job), _settings_restored():
            code = worker.run(job.module, job.arguments)
        job.is_over = True
        if code:
            server.socket.close()  # before the answer: no client may connect to a worker that ends
        else:
            server.busy.release()
        job.send({"exit": code})
        if code:
            os._exit(code)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


@contextlib.contextmanager
def _output_to(job: Job) -> Generator[None]:
    """Send all output to the job's client, that of libraries on descriptors 1 and 2 too."""
    outside, inside = os.pipe()
    streams: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
    own = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(inside, number)
    os.close(inside)
    sender = threading.Thread(target=_send_output, args=(outside, job))
    sender.start()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.flush()
        for number, before in zip((1, 2), own, strict=True):
            os.dup2(before, number)
            os.close(before)
        sender.join()


def _send_output(pipe: int, job: Job) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    with open(pipe, "rb", buffering=0) as output:
        while block := output.read(65_536):
            job.send({"output": decoder.decode(block)})


@contextlib.contextmanager
def _settings_restored() -> Generator[None]:
    """Restore torch's global settings and the signal handlers after a job."""
    threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    convolutions, benchmark = cudnn.allow_tf32, cudnn.benchmark
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32, cudnn.benchmark = convolutions, benchmark
        for number, handler in handlers.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main(sys.argv[1:])
