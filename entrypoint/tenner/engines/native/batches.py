"""Which images are in which step: repeats, buckets, order, and how many steps there are.

A batch holds pictures of one bucket. With several processes a batch is what all of them train on in
one pass, and each takes its share: the order is the same for any number of processes as long as
`train_batch_size` times their number stays the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tenner.core.messages import msg
from tenner.core.train_job import TrainItem, TrainJob
from tenner.engines.native.rng import python_rng

Batch = tuple[int, ...]
"""Indices into a job's items; an item occurs once for each of its repeats in the epoch."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How many steps and epochs a run has. A step is one optimizer step over the batches that are
    accumulated; each batch is one forward-backward pass."""

    steps_per_epoch: int
    num_steps: int
    num_epochs: int
    batches_per_epoch: int


def repeats_of(items: Sequence[TrainItem]) -> tuple[int, ...]:
    """How often an epoch has each item, in the order of the items.

    Regularisation images are repeated, or left out at the end, so that an epoch holds as many of
    them as of training images, as sd-scripts does.
    """
    repeats = [max(0, item.num_repeats) for item in items]
    regular = [index for index, item in enumerate(items) if item.is_reg]
    num_train = sum(repeats) - sum(repeats[index] for index in regular)
    if not regular or not num_train:
        return tuple(repeats)
    shares = dict.fromkeys(regular, 0)
    count, first = 0, True
    while count < num_train:
        for index in regular:
            more = max(1, repeats[index]) if first else 1
            shares[index] += more
            count += more
            if count >= num_train:
                break
        first = False
    return tuple(shares.get(index, each) for index, each in enumerate(repeats))


def buckets_of(items: Sequence[TrainItem]) -> dict[tuple[int, int], list[int]]:
    """The items of each bucket, repeats written out, in the order of the items."""
    buckets: dict[tuple[int, int], list[int]] = {}
    for index, times in enumerate(repeats_of(items)):
        buckets.setdefault(items[index].bucket, []).extend([index] * times)
    return {size: members for size, members in buckets.items() if members}


def epoch_batches(
    items: Sequence[TrainItem], total_batch_size: int, seed: int, epoch: int
) -> list[Batch]:
    """The batches of epoch number `epoch` (from 0), in order."""
    rng = python_rng(seed, "order", epoch)
    batches: list[Batch] = []
    for members in buckets_of(items).values():
        shuffled = list(members)
        rng.shuffle(shuffled)
        batches += [
            tuple(shuffled[start : start + total_batch_size])
            for start in range(0, len(shuffled), total_batch_size)
        ]
    rng.shuffle(batches)
    return batches


def schedule_of(job: TrainJob, num_processes: int = 1) -> Schedule:
    """Steps and epochs of a job. Raises ValueError where there is nothing to train on."""
    total = job.train_batch_size * num_processes
    batches = sum(-(-len(members) // total) for members in buckets_of(job.items).values())
    if not batches:
        raise ValueError(msg("there is no image to train on"))
    steps_per_epoch = -(-batches // job.gradient_accumulation_steps)
    if job.max_train_epochs is not None:
        num_steps = job.max_train_epochs * steps_per_epoch
    else:
        num_steps = job.max_train_steps
    return Schedule(
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
        num_epochs=-(-num_steps // steps_per_epoch),
        batches_per_epoch=batches,
    )


def share_of(batch: Batch, rank: int, num_processes: int) -> range:
    """The positions in `batch` that process `rank` trains on: consecutive ones, as many for each
    process; the first processes have one more where they cannot be equal."""
    size, rest = divmod(len(batch), num_processes)
    start = rank * size + min(rank, rest)
    return range(start, start + size + (rank < rest))
