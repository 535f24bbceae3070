"""Optimizer steps: none where gradients are not finite; AdamW8bit over flat tensors has the result
of separate matrices."""

from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch

from tenner.core.train_job import TrainJob
from tenner.engines.native.lora import LoraBank, LoraSpec
from tenner.engines.native.optimizers import _block_groups, flat_adamw8bit, small_below
from tenner.engines.native.update import Updater

CPU = torch.device("cpu")


def make_bank(rank: int, small: int | None = None) -> LoraBank:
    """Sites as in a U-Net: three matrices that read one input, and different widths."""
    bank = LoraBank(small)
    for segment in ("text_encoder", "unet"):
        mark = "lora_te" if segment == "text_encoder" else "lora_unet"
        for number, (wide, outs) in enumerate(
            [(320, (320, 320, 320)), (768, (320, 320, 640, 640, 1280, 1280)), (1280, (320,))]
        ):
            specs = tuple(
                LoraSpec(
                    name=f"{mark}_{number}_{each}",
                    in_features=wide,
                    out_features=out,
                    rank=rank,
                    alpha=1.0,
                )
                for each, out in enumerate(outs)
            )
            bank.add(segment, specs)
    bank.allocate(CPU, torch.float32)
    bank.initialise(3)
    return bank


def make_job(**changes: object) -> TrainJob:
    return tiny_model.make_job(Path("base"), Path("out"), (), **changes)


def random_gradients(bank: LoraBank, step: int) -> None:
    """Gradients of very different sizes, zero in the padding."""
    rng = torch.Generator().manual_seed(step)
    bank.grads.zero_()
    for _, start, size in bank.matrices():
        spread = 10.0 ** (torch.rand(1, generator=rng) * 6 - 6)
        bank.grads[start : start + size] = torch.randn(size, generator=rng) * spread


OPTIMIZERS = ("AdamW", "Adam", "SGD", "SGDNesterov", "Lion", "Prodigy", "Adafactor")


@pytest.mark.parametrize("broken", [{0}, {0, 1, 4}])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_nothing(name: str, broken: set[int]) -> None:
    """A run with broken steps ends where the run without them ends, bit for bit."""
    job = make_job(optimizer_type=name, learning_rate=1.0 if name == "Prodigy" else 1e-3)
    banks = make_bank(4), make_bank(4)
    updaters = [Updater(job, bank, CPU, num_steps=100) for bank in banks]
    for step in range(6):
        for bank, updater, meets in zip(banks, updaters, (True, False), strict=True):
            random_gradients(bank, step)
            if step in broken:
                if not meets:
                    continue
                bank.grads[7] = float("nan") if step % 2 else float("inf")
                before = bank.weights.clone()
                updater.step(step)
                assert torch.equal(bank.weights, before)
            else:
                updater.step(step)
    assert torch.equal(banks[0].weights, banks[1].weights)
    assert_equal(
        updaters[0].state()["optimizer"]["state"], updaters[1].state()["optimizer"]["state"]
    )


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def per_matrix_adamw8bit(bank: LoraBank, job: TrainJob) -> Any:
    import bitsandbytes

    parameters = []
    for _, start, size in bank.matrices():
        parameter = torch.nn.Parameter(bank.weights[start : start + size])
        parameter.grad = bank.grads[start : start + size]
        parameters.append(parameter)
    return bitsandbytes.optim.AdamW8bit(parameters, lr=job.learning_rate, weight_decay=0.1)


@pytest.mark.parametrize("rank", [2, 6, 8])
def test_flat_8_bit_states_equal_separate_states_of_each_matrix(rank: int) -> None:
    job = make_job(optimizer_type="AdamW8bit", learning_rate=1e-3)
    flat, single = (make_bank(rank, small_below(job)) for _ in range(2))
    ours = flat_adamw8bit(_block_groups(job, flat), {"lr": 1e-3, "weight_decay": 0.1})
    for group in ours.param_groups:
        group["lr"] = 1e-3
    theirs = per_matrix_adamw8bit(single, job)
    for step in range(5):
        for bank, optimizer in ((flat, ours), (single, theirs)):
            random_gradients(bank, step)
            optimizer.step()
    assert torch.equal(flat.weights, single.weights)
    num_flat = sum(len(group["params"]) for group in ours.param_groups)
    num_single = sum(1 for _ in single.matrices())
    assert num_flat <= (8 if rank % 4 == 0 else num_single)
    bits = {each["state1"].dtype for each in ours.state.values()}
    assert bits == {each["state1"].dtype for each in theirs.state.values()}


def test_its_blocks_hold_numbers_of_one_matrix_each() -> None:
    for rank in (1, 3, 4, 5, 16):
        bank = make_bank(rank, 4096)
        starts = {start: size for _, start, size in bank.matrices()}
        for group in _block_groups(make_job(), bank):
            for parameter in group["params"]:
                if "state_bits" in group:
                    continue
                first = parameter.storage_offset()
                inside = [s for s in starts if first <= s < first + parameter.numel()]
                assert inside[0] == first
                assert all((start - first) % 256 == 0 for start in inside)
                assert all(starts[start] >= 4096 for start in inside)


def test_an_8_bit_step_waits_for_nothing_and_is_undone_where_it_is_not_finite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import bitsandbytes.optim.optimizer as theirs

    waits: list[torch.Tensor] = []
    monkeypatch.setattr(theirs, "sync_gpu", waits.append)
    job = make_job(optimizer_type="AdamW8bit", learning_rate=1e-3)
    made = "tenner.engines.native.update.make_optimizer"
    monkeypatch.setattr(made, lambda job, bank, _: flat_adamw8bit(_block_groups(job, bank), {}))
    banks = make_bank(8, small_below(job)), make_bank(8, small_below(job))
    updaters = [Updater(job, bank, CPU, num_steps=100) for bank in banks]
    for step in range(5):
        for bank, updater, meets in zip(banks, updaters, (True, False), strict=True):
            random_gradients(bank, step)
            if step == 2:
                if not meets:
                    continue
                bank.grads[3] = float("nan")
            updater.step(step)
    assert torch.equal(banks[0].weights, banks[1].weights)
    assert not waits
    first, second = (updater.state()["optimizer"]["state"] for updater in updaters)
    assert_equal(first, second)
