"""CUDA graphs of a run's passes: the thousands of launches of a pass as a single one.

Before the first step one pass of each shape is run on a side stream until every library has chosen
what it computes with, then captured; from then on its inputs are copied into the memory that was
captured, and the graph is replayed. All graphs take their memory from one pool, the largest first,
so it holds what the largest pass needs, once. A pass whose shape has no graph is run as it is.

Nothing but the loss leaves a graph, in memory outside of the pool, so replays may follow each other
in any order. Random numbers of the card go on in a graph as they do without: torch hands it seed
and offset at each replay.
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

MOST_GRAPHS = 32
"""Shapes that are captured, the commonest ones: each takes time at the start, which no card has
measured yet."""
_WARM_UPS = 2

Run = Callable[[], object]


class GraphError(Exception):
    """A pass could not be captured, for another reason than memory."""


class Backend(Protocol):
    """What makes graphs."""

    def warm_up(self, run: Run) -> None:
        """Run what will be captured, where it will be captured."""
        ...

    def capture(self, run: Run) -> Run:
        """What repeats the operations of `run` on the same memory. Raises RuntimeError."""
        ...


def why_not(job: TrainJob, device: torch.device) -> Message | None:
    """Why passes of this job cannot be captured; None where they can."""
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
    """Does what the pass does that it is given, by graphs where there are any."""

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
        """Capture passes of these shapes, before the first step: what they leave in the gradients
        is overwritten there. How many graphs there are. Raises GraphError, or the error of memory
        that ran out.
        """
        kinds = [(each, first) for each in examples for first in (True, not accumulates)]
        kinds.sort(key=lambda kind: kind[0].samples.noisy.numel(), reverse=True)
        inputs_of = {self._begun(*kind): kind for kind in kinds}
        for inputs, first in inputs_of.values():
            self._begun(inputs, first)
            for _ in range(_WARM_UPS):
                self._backend.warm_up(lambda inputs=inputs: self._run(inputs))
        try:
            for key, (inputs, first) in inputs_of.items():
                self._begun(inputs, first)
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

    def _begun(self, inputs: PassInputs, first: bool) -> tuple[object, ...]:
        self._bank.begin_pass(first=first, num_samples=len(inputs.samples.noisy))
        return self._key(inputs)

    def _key(self, inputs: PassInputs) -> tuple[object, ...]:
        """What decides over the operations of the pass that is about to run: a first one writes
        gradients where a later one adds to them (runs of low precision have first ones alone)."""
        return (inputs.shapes(), self._bank.first_pass)


class CudaBackend:
    """torch's CUDA graphs, of one stream and one pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)
        self._pool: Any = torch.cuda.graph_pool_handle()
        self.peak_bytes = 0
        """Allocated at most while graphs were captured: what their replays take counts as free."""

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
            # Other threads go on: only what this one calls may spoil the capture.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                _noting(run, failure)
        except RuntimeError as error:
            self._clean_up()
            torch.cuda.set_stream(current)
            raise (failure[0] if failure else error) from error
        self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated(self._device))
        return graph.replay

    def _clean_up(self) -> None:
        """After a capture that failed. Up to torch 2.11 the allocator then goes on believing that
        it is under way and never frees what another stream has used, and the generator refuses to
        draw until a capture has ended well."""
        for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):
            end = getattr(torch._C, name, None)  # pyright: ignore[reportPrivateUsage]
            if end is not None:
                with contextlib.suppress(RuntimeError, TypeError):
                    end(torch.cuda.current_device(), self._pool)
        number = torch.zeros((), device=self._device)
        with contextlib.suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            number.add_(1)
        torch.cuda.synchronize(self._device)


def _noting(run: Run, failure: list[Exception]) -> None:
    """Run; an error is kept, as the capture that it ends reports one of its own."""
    try:
        run()
    except Exception as error:
        failure.append(error)
        raise
