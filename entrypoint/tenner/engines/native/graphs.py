"""CUDA graphs of a run's passes: the thousands of kernel launches of a pass as a single one.

Before the first step one pass of each shape is run on a side stream until every library has chosen
its kernels and workspaces, then captured. From then on a pass's inputs are copied into the memory
of the capture and the graph is replayed. All graphs share one memory pool; the largest is captured
first, so the pool is as large as that pass needs. A pass whose shape has no graph runs without one.

Only the loss and the gradients leave a graph, in memory outside of the pool, so graphs may be
replayed in any order. Random numbers are those of a pass without a graph: torch passes the
generator's seed and offset to each replay.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tenner.core.graph_obstacle import REASONS, graph_obstacle
from tenner.core.memory_errors import is_out_of_memory
from tenner.core.messages import Message
from tenner.core.train_job import TrainJob
from tenner.engines.native.lora import LoraBank
from tenner.engines.native.passes import PassInputs, TrainingPass

_WARM_UPS = 2
"""Runs before a capture: libraries choose kernels and allocate workspaces outside of it."""

Run = Callable[[], object]


class GraphError(Exception):
    """A pass could not be captured, for another reason than memory."""


class Backend(Protocol):
    """Captures graphs: `CudaBackend`, or a stand-in on a CPU for tests."""

    def warm_up(self, run: Run) -> None:
        """Call `run` on the stream of the captures, before its capture."""
        ...

    def capture(self, run: Run) -> Run:
        """Call `run` and return a function that repeats its operations on the same memory.

        Raises RuntimeError.
        """
        ...


def reason_against(job: TrainJob, device: torch.device) -> Message | None:
    """The reason why passes of this job cannot be captured; None where they can."""
    obstacle = graph_obstacle(
        on_card=device.type == "cuda",
        module_dropout=bool(job.module_dropout),
        dropouts=bool(job.network_dropout or job.rank_dropout),
        gradient_checkpointing=job.gradient_checkpointing,
        torch_compile=job.torch_compile,
    )
    return None if obstacle is None else REASONS[obstacle]


@dataclass(frozen=True, kw_only=True)
class _Graph:
    inputs: PassInputs
    loss: Tensor
    replay: Run


class GraphedPass:
    """Calls `run`, a pass, by its graph where one of that shape was captured."""

    def __init__(self, run: TrainingPass, bank: LoraBank, backend: Backend) -> None:
        self._run = run
        self._bank = bank
        self._backend = backend
        self._graphs: dict[tuple[object, ...], _Graph] = {}

    def __call__(self, inputs: PassInputs) -> Tensor:
        graph = self._graphs.get(self._key(inputs))
        if graph is None:
            return self._run(inputs)
        graph.inputs.take(inputs)
        graph.replay()
        return graph.loss

    def prepare(self, examples: Iterable[PassInputs], *, accumulates: bool) -> int:
        """Capture a pass of each shape of `examples`; returns the number of graphs.

        To be called before the first step, which overwrites the gradients of these passes. With
        `accumulates` a step has several passes, of which the later ones add to the gradients.
        Raises GraphError, or the error of memory that ran out.
        """
        kinds = [(each, first) for each in examples for first in (True, not accumulates)]
        kinds.sort(key=lambda kind: kind[0].samples.noisy.numel(), reverse=True)
        inputs_of = {self._begin_pass(*kind): kind for kind in kinds}
        for inputs, first in inputs_of.values():
            self._begin_pass(inputs, first)
            for _ in range(_WARM_UPS):
                self._backend.warm_up(lambda inputs=inputs: self._run(inputs))
        try:
            for key, (inputs, first) in inputs_of.items():
                self._begin_pass(inputs, first)
                self._graphs[key] = self._captured(inputs.cloned())
        except RuntimeError as error:
            self._graphs.clear()
            if is_out_of_memory(f"{type(error).__name__}: {error}"):
                raise
            raise GraphError(next(iter(str(error).splitlines()), "")) from error
        return len(self._graphs)

    def _captured(self, inputs: PassInputs) -> _Graph:
        loss = torch.zeros((), device=inputs.samples.noisy.device)
        replay = self._backend.capture(lambda: loss.copy_(self._run(inputs)))
        return _Graph(inputs=inputs, loss=loss, replay=replay)

    def _begin_pass(self, inputs: PassInputs, first: bool) -> tuple[object, ...]:
        self._bank.begin_pass(first=first, num_samples=len(inputs.samples.noisy))
        return self._key(inputs)

    def _key(self, inputs: PassInputs) -> tuple[object, ...]:
        """What the operations of the next pass depend on: its shapes, and whether it overwrites
        gradients or adds to them (in low precision every pass overwrites them)."""
        return (inputs.shapes(), self._bank.first_pass)


class CudaBackend:
    """torch's CUDA graphs, captured on one stream with one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)
        self._pool: Any = torch.cuda.graph_pool_handle()
        self.peak_bytes = 0
        """The peak in captures: the allocator counts the memory that replays use as free."""

    def warm_up(self, run: Run) -> None:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            run()
        current.wait_stream(self._stream)

    def capture(self, run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._device)
        failure: list[Exception] = []
        torch.cuda.reset_peak_memory_stats(self._device)
        try:
            # With "global", a pinned allocation of another thread would end the capture.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                _run_noting_failure(run, failure)
        except RuntimeError as error:
            self._clean_up()
            torch.cuda.set_stream(current)
            raise (failure[0] if failure else error) from error
        self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated(self._device))
        return graph.replay

    def _clean_up(self) -> None:
        """Reset torch after a failed capture. Up to torch 2.11 the allocator's capture is still
        open, so that it never frees memory that another stream has used, and the generator raises
        until another capture has succeeded."""
        for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):
            end = getattr(torch._C, name, None)  # pyright: ignore[reportPrivateUsage]
            if end is not None:
                with contextlib.suppress(RuntimeError, TypeError):
                    end(torch.cuda.current_device(), self._pool)
        number = torch.zeros((), device=self._device)
        with contextlib.suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            number.add_(1)
        torch.cuda.synchronize(self._device)


def _run_noting_failure(run: Run, failure: list[Exception]) -> None:
    """Call `run` and note its error in `failure`: the capture that it ends raises another one."""
    try:
        run()
    except Exception as error:
        failure.append(error)
        raise
