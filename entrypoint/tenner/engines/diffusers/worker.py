"""A process that trains and draws one job after another, with the base model loaded throughout.

`python -m tenner.engines.diffusers.worker SOCKET`. Each connection brings one piece of work (see
`errand`): a module, its arguments, and the pipe that its output goes to. Work is done by the same
functions as in processes of their own. After a failure the worker ends, so that no job meets what
another has left; it also ends when its input closes, that is, with whoever started it.
"""
# pyright: reportUnknownMemberType=false

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

import torch

from tenner.engines.diffusers import train
from tenner.engines.diffusers.errand import BEGUN
from tenner.engines.diffusers.kept import KeptBase
from tenner.sample import draw
from tenner.sample.kept import KeptPipeline

Work = Callable[[list[str]], int]
_MOST_REQUEST_BYTES = 65_536


class Worker:
    """What stays loaded, and the work that uses it."""

    def __init__(self) -> None:
        self.base = KeptBase()
        self.pipeline = KeptPipeline()
        self.modules: dict[str, Work] = {
            "tenner.engines.diffusers.train": self._train,
            "tenner.sample.draw": self._draw,
        }

    def _train(self, arguments: list[str]) -> int:
        return train.main(arguments, self.base)

    def _draw(self, arguments: list[str]) -> int:
        self.pipeline.make_room = self.base.drop
        try:
            return draw.main(arguments, self.pipeline.load)
        finally:
            self.pipeline.rest()

    def serve(self, client: socket.socket) -> int:
        """Do what a connection asks for. Returns the exit code; 0 where it asks for nothing."""
        request, pipes, _, _ = socket.recv_fds(client, _MOST_REQUEST_BYTES, 1)
        if not pipes:  # somebody looked whether there is a worker
            return 0
        (output,), asked = pipes, json.loads(request)
        client.sendall(BEGUN)
        over = threading.Event()
        threading.Thread(target=_watch, args=(client, over), daemon=True).start()
        with _output_to(output), _as_it_was():
            code = _code_of(self.modules[asked["module"]], [str(x) for x in asked["arguments"]])
        over.set()
        return code


def main(words: Sequence[str]) -> NoReturn:
    """Serve until the input closes or a piece of work fails; the process ends with its code."""
    address = Path(words[0])
    threading.Thread(target=_end_with_input, daemon=True).start()
    worker = Worker()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(address))
        server.listen()
        while True:
            client, _ = server.accept()
            with client:
                code = worker.serve(client)
                if code:
                    server.close()  # before the answer: nobody is to come to one that ends
                with contextlib.suppress(OSError):  # whoever asked is gone
                    client.sendall(f"{code}\n".encode())
            if code:
                os._exit(code)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


def _watch(client: socket.socket, over: threading.Event) -> None:
    """Pass a wish to stop on as a signal; end at once where whoever asked was killed."""
    with contextlib.suppress(OSError):
        while client.recv(64):
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
    if not over.is_set():
        os._exit(1)


def _code_of(work: Work, arguments: list[str]) -> int:
    """The exit code that the work would have had as a process."""
    try:
        return work(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - a process would end the same way
        traceback.print_exc()
        return 1


@contextlib.contextmanager
def _output_to(pipe: int) -> Generator[None]:
    """All that is printed, by Python or below it, goes to `pipe`, which is closed at the end."""
    streams: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
    own = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(pipe, number)
    os.close(pipe)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.flush()
        for number, kept in zip((1, 2), own, strict=True):
            os.dup2(kept, number)
            os.close(kept)


@contextlib.contextmanager
def _as_it_was() -> Generator[None]:
    """Afterwards torch's global settings and the signals are what they were before."""
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
