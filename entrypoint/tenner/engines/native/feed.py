"""The samples of each step: latents, noise, timesteps and captions, on the device.

All random numbers are seeded by their position in the run (`rng`), so nothing depends on when they
are made. On a card the next step's samples are therefore made on a thread while the card computes
the current step, put into pinned memory and copied on a stream of their own: no step waits for a
copy.
"""
# pyright: reportUnknownMemberType=false

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tenner.core.train_job import TrainJob
from tenner.engines.native.batches import Batch, Schedule, epoch_batches, share_of
from tenner.engines.native.captions import draw_caption
from tenner.engines.native.latents import LatentCache, masks_of
from tenner.engines.native.network import Network
from tenner.engines.native.noise import NoiseSchedule
from tenner.engines.native.processes import Processes

_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """One process's n samples of a batch.

    `noisy` [n, 4, h, w] has the run's precision, `target` [n, 4, h, w] is fp32, `timesteps` [n]
    are integers. `share` [n] is each sample's factor in the step's loss, `masks` [n, 1, h, w] the
    factor of each position (None: 1 everywhere), `sizes` [n, 6] SDXL's size conditioning.
    """

    noisy: Tensor
    target: Tensor
    timesteps: Tensor
    share: Tensor
    sizes: Tensor
    masks: Tensor | None
    captions: Sequence[str]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names, without `masks` where there are none."""
        found = {name: getattr(self, name) for name in _TENSORS}
        return {name: value for name, value in found.items() if value is not None}


_TENSORS = ("noisy", "target", "timesteps", "share", "sizes", "masks")


@dataclass(frozen=True, kw_only=True)
class Pass:
    """The samples of a forward-backward pass. `samples` is None where the batch has none for this
    process; `num_images` counts those of all processes."""

    samples: Samples | None
    num_images: int


@dataclass(frozen=True)
class _Prepared:
    """The passes of a step. `arrived` is the CUDA event that ends their copies; None on a CPU."""

    passes: list[Pass]
    arrived: Any = None


class Feed:
    """The passes of any step, in any order of steps. Close it at the end of the run.

    `is_ahead` prepares the next step on a thread; by default on a card.
    """

    def __init__(
        self,
        job: TrainJob,
        network: Network,
        noise: NoiseSchedule,
        latents: LatentCache,
        schedule: Schedule,
        processes: Processes,
        *,
        is_ahead: bool | None = None,
    ) -> None:
        self._job = job
        self._network = network
        self._noise = noise
        self._latents = latents
        self._schedule = schedule
        self._processes = processes
        self._epoch: tuple[int, list[Batch]] = (-1, [])
        self._on_card = network.device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(network.device) if self._on_card else None
        ahead = self._on_card if is_ahead is None else is_ahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed") if ahead else None
        self._next: tuple[int, Future[_Prepared]] | None = None

    def passes(self, step: int) -> list[Pass]:
        """The passes of step `step` (from 0), on the device."""
        if self._thread is None:
            return self._prepare(step).passes
        if self._next is None or self._next[0] != step:
            self._next = (step, self._thread.submit(self._prepare, step))
        prepared = self._next[1].result()
        self._next = None
        if step + 1 < self._schedule.num_steps:
            self._next = (step + 1, self._thread.submit(self._prepare, step + 1))
        return self._after_copies(prepared)

    def examples(self, at_most: int) -> list[Samples]:
        """Samples of each shape that this process has in an epoch, on the device: of the
        `at_most` most frequent shapes."""
        job, processes = self._job, self._processes
        total = job.train_batch_size * processes.count
        found: dict[tuple[object, ...], int] = {}
        counts: Counter[tuple[object, ...]] = Counter()
        batches = epoch_batches(job.items, total, job.seed, 0)
        for index, batch in enumerate(batches):
            count = len(share_of(batch, processes.rank, processes.count))
            if count:
                shape = (job.items[batch[0]].bucket, count)
                found.setdefault(shape, index)
                counts[shape] += 1
        drawn = [
            self._samples(batches[found[shape]], found[shape], 1)
            for shape, _ in counts.most_common(at_most)
        ]
        sent = [self._on_device(each) if self._on_card else each for each in drawn]
        return [each for each in sent if each is not None]

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _after_copies(self, prepared: _Prepared) -> list[Pass]:
        """The passes; the current stream waits for their copies, the host does not."""
        if prepared.arrived is not None:
            stream = torch.cuda.current_stream(self._network.device)
            stream.wait_event(prepared.arrived)
            for each in prepared.passes:
                for tensor in each.samples.tensors().values() if each.samples else ():
                    # Else the allocator reuses its memory for the next copies once Python drops it.
                    tensor.record_stream(stream)
        return prepared.passes

    def _prepare(self, step: int) -> _Prepared:
        passes = list(self._host_passes(step))
        if not self._on_card:
            return _Prepared(passes)
        with torch.cuda.stream(self._stream):
            sent = [replace(each, samples=self._on_device(each.samples)) for each in passes]
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        return _Prepared(sent, arrived)

    def _on_device(self, samples: Samples | None) -> Samples | None:
        if samples is None:
            return None
        moved = {
            name: tensor.pin_memory().to(self._network.device, non_blocking=True)
            for name, tensor in samples.tensors().items()
        }
        return replace(samples, **moved)

    def _host_passes(self, step: int) -> Iterator[Pass]:
        batches = self._batches(step)
        for index, batch in batches:
            samples = self._samples(batch, index, len(batches))
            yield Pass(samples=samples, num_images=len(batch))

    def _batches(self, step: int) -> list[tuple[int, Batch]]:
        """The batches of a step, each with its index in the whole run."""
        job, schedule = self._job, self._schedule
        epoch, step_in_epoch = divmod(step, schedule.steps_per_epoch)
        if self._epoch[0] != epoch:
            total = job.train_batch_size * self._processes.count
            self._epoch = (epoch, epoch_batches(job.items, total, job.seed, epoch))
        first = step_in_epoch * job.gradient_accumulation_steps
        found = self._epoch[1][first : first + job.gradient_accumulation_steps]
        start = epoch * schedule.batches_per_epoch + first
        return list(enumerate(found, start))

    def _samples(self, batch: Batch, index: int, num_batches: int) -> Samples | None:
        """This process's share of a batch, in the host's memory; None where it has none.

        `index` is the batch's number in the run, `num_batches` those of its step.
        """
        job, indices = self._job, share_of(batch, self._processes.rank, self._processes.count)
        if not indices:
            return None
        epoch = index // self._schedule.batches_per_epoch
        total = job.train_batch_size * self._processes.count
        positions = [index * total + index_in_batch for index_in_batch in indices]
        items = [job.items[batch[index_in_batch]] for index_in_batch in indices]
        views = [
            self._latents.pick(batch[index_in_batch], position)
            for index_in_batch, position in zip(indices, positions, strict=True)
        ]
        drawn = [
            self._noise.sample(view.latents, position)
            for view, position in zip(views, positions, strict=True)
        ]
        shares = [
            sample.weight * item.loss_weight * (job.prior_loss_weight if item.is_reg else 1.0)
            for sample, item in zip(drawn, items, strict=True)
        ]
        network = self._network
        noisy = torch.stack([sample.noisy for sample in drawn])
        return Samples(
            noisy=noisy.to(network.dtype, memory_format=network.memory_format),
            target=torch.stack([sample.target for sample in drawn]),
            timesteps=torch.tensor([sample.timestep for sample in drawn]),
            share=torch.tensor(shares) / (len(batch) * num_batches),
            captions=[
                draw_caption(job, item.caption, epoch=epoch, position=position)
                for item, position in zip(items, positions, strict=True)
            ],
            sizes=torch.tensor([view.sizes for view in views], dtype=torch.float32),
            masks=masks_of(views, _CPU),
        )
