"""The built-in trainer on an NVIDIA card, held to itself on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model
import torch
from safetensors.torch import load_file

from tenner.core.events import Failed, parse_event
from tenner.core.train_job import TrainJob
from tenner.engines.native.batches import schedule_of
from tenner.engines.native.latents import encode_all
from tenner.engines.native.load import load_base, load_vae
from tenner.engines.native.loop import Trainer
from tenner.engines.native.lora import LoraBank, LoraSpec
from tenner.engines.native.network import build_network
from tenner.engines.native.noise import NoiseSchedule
from tenner.engines.native.optimizers import _block_groups, flat_adamw8bit
from tenner.engines.native.processes import Processes
from tenner.engines.native.train import _is_out_of_memory

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make_base(tmp_path_factory.mktemp("base"))


def make_job(base: Path, folder: Path, **changes: object) -> TrainJob:
    items = tiny_model.make_items(folder / "data")
    return tiny_model.make_job(base, folder / "out", items, **changes)


def make_trainer(job: TrainJob, device: torch.device) -> Trainer:
    loaded = load_base(job)
    cpu = torch.device("cpu")  # the same latents on either device
    latents = encode_all(job, lambda: load_vae(loaded), "vae", cpu, lambda *_: None)
    network = build_network(job, loaded, device)
    noise = NoiseSchedule(job, loaded.scheduler)
    alone = Processes(rank=0, count=1, device=device)
    return Trainer(job, network, noise, latents, schedule_of(job), alone, lambda _: None)


def gradients(job: TrainJob, device: torch.device) -> torch.Tensor:
    trainer = make_trainer(job, device)
    trainer._one_step()
    trainer.close()
    return trainer._network.bank.grads.float().cpu()


@pytest.mark.parametrize(("precision", "apart"), [("no", 2e-3), ("bf16", 0.1), ("fp16", 0.02)])
def test_a_step_has_the_gradients_that_the_cpu_finds_in_fp32(
    base: Path, tmp_path: Path, device: torch.device, precision: str, apart: float
) -> None:
    torch.set_float32_matmul_precision("highest")
    plain = {"optimizer_type": "SGD", "max_grad_norm": 0.0}
    expected = gradients(make_job(base, tmp_path, **plain), torch.device("cpu"))
    found = gradients(make_job(base, tmp_path, mixed_precision=precision, **plain), device)
    scale = float(expected.norm() / found.norm()) if precision == "fp16" else 1.0
    assert float((found * scale - expected).norm() / expected.norm()) < apart


def run(job: TrainJob) -> tuple[int, list[object]]:
    folder = Path(job.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(job.to_json())
    package = Path(__file__).parents[2] / "entrypoint"
    command = [sys.executable, "-m", "tenner.engines.native.train", str(folder / "job.json")]
    environ = {**os.environ, "PYTHONPATH": f"{package}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, [parse_event(line) for line in done.stdout.splitlines()]


def test_a_resumed_run_ends_bit_for_bit_where_the_whole_one_does(
    base: Path, tmp_path: Path, device: torch.device
) -> None:
    common = {"max_train_steps": 8, "save_state_every_n_steps": 4, "keep_states": 9}
    assert run(make_job(base, tmp_path / "whole", **common))[0] == 0
    state = tmp_path / "whole/out/state/step-00000004"
    assert run(make_job(base, tmp_path / "resumed", resume=str(state), **common))[0] == 0
    whole, resumed = (
        load_file(tmp_path / name / "out/lora.safetensors") for name in ("whole", "resumed")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def make_bank(device: torch.device) -> LoraBank:
    bank = LoraBank(4096)
    for number, width in enumerate((320, 640, 1280)):
        spec = LoraSpec(
            name=f"lora_unet_{number}", in_features=width, out_features=320, rank=8, alpha=1.0
        )
        bank.add("unet", (spec,))
    bank.allocate(device, torch.float32)
    bank.initialise(3)
    return bank


def test_flat_8_bit_states_give_the_numbers_of_a_state_for_each_matrix(
    device: torch.device, tmp_path: Path
) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    job = tiny_model.make_job(Path("base"), tmp_path, (), learning_rate=1e-3)
    flat, single = make_bank(device), make_bank(device)
    ours = flat_adamw8bit(_block_groups(job, flat), {})
    for group in ours.param_groups:
        group["lr"] = 1e-3
    parameters = []
    for _, start, size in single.matrices():
        parameters.append(torch.nn.Parameter(single.weights[start : start + size]))
        parameters[-1].grad = single.grads[start : start + size]
    theirs = bitsandbytes.optim.AdamW8bit(parameters, lr=1e-3)
    for step in range(5):
        draws = torch.Generator().manual_seed(step)
        for bank, optimizer in ((flat, ours), (single, theirs)):
            bank.grads.zero_()
            for _, start, size in bank.matrices():
                bank.grads[start : start + size] = torch.randn(
                    size, generator=draws.manual_seed(start)
                ).to(device)
            optimizer.step()
    assert torch.equal(flat.weights, single.weights)


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamW8bit", "Lion"])
def test_a_steady_step_waits_for_nothing(
    base: Path, tmp_path: Path, card: torch.device, optimizer: str
) -> None:
    for changes in ({}, {"network_train_unet_only": True}):
        job = make_job(
            base, tmp_path, optimizer_type=optimizer, mixed_precision="bf16", max_train_steps=12,
            **changes,
        )  # fmt: skip
        trainer = make_trainer(job, card)
        trainer.encode_captions(lambda *_: None)
        for _ in range(6):  # every bucket's shape
            trainer._one_step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(4):
                trainer._one_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            trainer.close()


def fill(limit: int, device: torch.device) -> list[torch.Tensor]:
    """Take memory in smaller and smaller pieces until less than `limit` bytes can be had."""
    taken: list[torch.Tensor] = []
    size = 2**30
    while size >= limit:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8, device=device))
        except torch.cuda.OutOfMemoryError:
            size //= 2
    return taken


def test_memory_that_runs_out_in_a_step_is_recognised(
    base: Path, tmp_path: Path, card: torch.device
) -> None:
    trainer = make_trainer(make_job(base, tmp_path, train_batch_size=6), card)
    taken = fill(512, card)
    try:
        with pytest.raises(RuntimeError) as caught:
            trainer._one_step()
    finally:
        taken.clear()
        trainer.close()
        torch.cuda.empty_cache()
    assert _is_out_of_memory(caught.value)


def test_a_card_without_any_memory_left_is_recognised(
    base: Path, tmp_path: Path, card: torch.device
) -> None:
    """Another process leaves less than a context takes (64 MiB)."""
    taken = fill(2**26, card)
    try:
        code, events = run(make_job(base, tmp_path))
    finally:
        taken.clear()
        torch.cuda.empty_cache()
    assert code != 0
    assert [event.kind for event in events if isinstance(event, Failed)] == ["oom"]


def test_xformers_attention_is_torch_s_own(card: torch.device) -> None:
    xformers = pytest.importorskip("xformers.ops")
    query, key, value = (torch.randn(2, 77, 8, 40, device=card, dtype=torch.half) for _ in "qkv")
    found = xformers.memory_efficient_attention(query, key, value)
    turned = [each.transpose(1, 2) for each in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(*turned).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
