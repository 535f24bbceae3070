"""The built-in trainer on an NVIDIA card, held to itself on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model
import torch
from PIL import Image
from replaying import Replaying
from safetensors.torch import load_file

from tenner.core.events import Drew, Event, Failed, Step, Warned, parse_event
from tenner.core.train_job import TrainJob
from tenner.engines.native.batches import schedule_of
from tenner.engines.native.graphs import CudaBackend, GraphedPass
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
        steps_without_waiting(trainer, 4)


def steps_without_waiting(trainer: Trainer, number: int) -> None:
    """Train on, with an error where the host waits for the card; then close the trainer."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(number):
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


def make_listening_trainer(job: TrainJob, device: torch.device) -> tuple[Trainer, list[Event]]:
    trainer, events = make_trainer(job, device), []
    trainer._emit = trainer._losses.emit = events.append  # pyright: ignore[reportAttributeAccessIssue]
    trainer.encode_captions(lambda *_: None)
    return trainer, events


def all_steps(trainer: Trainer, events: list[Event]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and losses after all steps."""
    try:
        for _ in range(trainer._job.max_train_steps):
            trainer._one_step()
        trainer._losses.flush()
    finally:
        trainer.close()
    losses = [event.loss for event in events if isinstance(event, Step)]
    return trainer._network.bank.weights.cpu(), torch.tensor(losses)


GRAPHED = {
    "text encoder": {"shuffle_caption": True, "min_snr_gamma": 5.0},
    "accumulation": {"gradient_accumulation_steps": 3, "network_train_unet_only": True},
    "dropouts": {"network_dropout": 0.2, "rank_dropout": 0.2},
    "checkpointing": {"gradient_checkpointing": True, "mixed_precision": "fp16"},
    "convolutions": {"conv_dim": 2, "mixed_precision": "bf16"},
}


@pytest.mark.parametrize("case", GRAPHED)
def test_graphs_train_as_the_passes_themselves(
    base: Path, tmp_path: Path, device: torch.device, case: str
) -> None:
    """Kernels are the same, but sums over threads may come in another order, and what is chosen by
    timing may differ: equal within rounding. Draws of dropouts are equal, or losses would be far
    apart. SGD: Adam's first steps have the size of the rate however small a gradient is."""
    if device.type == "cpu" and case != "text encoder":
        pytest.skip("held on a CPU by tests/engines/native/test_graphs.py")
    torch.set_float32_matmul_precision("highest")
    common = {"optimizer_type": "SGD", "max_train_steps": 8, "train_batch_size": 3, **GRAPHED[case]}
    expected = all_steps(*make_listening_trainer(make_job(base, tmp_path, **common), device))
    trainer, events = make_listening_trainer(
        make_job(base, tmp_path, cuda_graphs=True, **common), device
    )
    start = trainer._network.bank.weights.cpu().clone()
    trainer.capture_graphs(None if device.type == "cuda" else Replaying())
    assert isinstance(trainer._run_pass, GraphedPass), events
    weights, losses = all_steps(trainer, events)
    apart = 1e-4 if "mixed_precision" not in common else 2e-2
    torch.testing.assert_close(losses, expected[1], rtol=apart, atol=apart)
    learnt = float((expected[0] - start).norm())
    assert learnt > 0
    assert float((weights - expected[0]).norm()) < max(apart, 1e-3) * learnt
    assert not any(isinstance(event, Warned) for event in events)


class Waiting(CudaBackend):
    """Its captures wait for the card, which a capture may not."""

    def capture(self, run):
        return super().capture(lambda: (run(), torch.zeros((), device="cuda").item()))


def test_a_capture_that_fails_leaves_a_notice_and_a_training_that_goes_on(
    base: Path, tmp_path: Path, card: torch.device
) -> None:
    """Allocator and generator are left as after no capture: dropouts draw, memory comes back."""
    common = {"network_dropout": 0.2, "optimizer_type": "SGD", "max_train_steps": 6}
    expected = all_steps(*make_listening_trainer(make_job(base, tmp_path, **common), card))
    trainer, events = make_listening_trainer(
        make_job(base, tmp_path, cuda_graphs=True, **common), card
    )
    trainer.capture_graphs(Waiting(card))
    before = torch.cuda.memory_allocated(card)
    _, losses = all_steps(trainer, events)
    torch.testing.assert_close(losses, expected[1], rtol=1e-3, atol=1e-3)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated(card) < before + 2**24
    assert [each.level for each in events if isinstance(each, Warned)] == ["note"]


class Crowded(CudaBackend):
    """Its captures find a full card."""

    def capture(self, run):
        torch.cuda.empty_cache()
        taken = fill(2**20, self._device)
        try:
            return super().capture(run)
        finally:
            taken.clear()


def test_memory_that_runs_out_in_a_capture_is_recognised(
    base: Path, tmp_path: Path, card: torch.device
) -> None:
    trainer, events = make_listening_trainer(
        make_job(base, tmp_path, train_batch_size=6, cuda_graphs=True), card
    )
    try:
        with pytest.raises(RuntimeError) as caught:
            trainer.capture_graphs(Crowded(card))
    finally:
        trainer.close()
        torch.cuda.empty_cache()
    assert _is_out_of_memory(caught.value)
    assert not any(isinstance(event, Warned) for event in events)


def test_a_steady_step_with_graphs_waits_for_nothing(
    base: Path, tmp_path: Path, card: torch.device
) -> None:
    job = make_job(base, tmp_path, cuda_graphs=True, mixed_precision="bf16", max_train_steps=12)
    trainer, events = make_listening_trainer(job, card)
    trainer.capture_graphs()
    assert isinstance(trainer._run_pass, GraphedPass), events
    for _ in range(6):
        trainer._one_step()
    steps_without_waiting(trainer, 4)


def test_samples_are_drawn_beside_the_training(device: torch.device, tmp_path: Path) -> None:
    """The whole program draws epoch 1; on a card while it trains on (a CPU may draw it after)."""
    package = Path(__file__).parents[2] / "entrypoint"
    data = tmp_path / "data/2_zwx"
    data.mkdir(parents=True)
    draws = torch.Generator().manual_seed(5)
    for number in range(4):
        pixels = torch.randint(0, 255, (64, 64, 3), generator=draws, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(data / f"{number}.png")
        (data / f"{number}.txt").write_text("zwx, a red star")
    settings = {
        "base_model": "tiny",
        "dataset": str(data.parent),
        "output_dir": str(tmp_path / "out"),
        "device": "cpu" if device.type == "cpu" else "auto",
        "engine": "native",
        "resolution": "64",
        "min_bucket_reso": "64",
        "network_dim": "4",
        "batch_size": "1",
        "optimizer_type": "AdamW",
        "max_train_epochs": "4" if device.type == "cpu" else "200",
        "save_every_n_epochs": "1",
        "sample_at_epochs": "1",
        "sample_prompts": "zwx",
        "sample_steps": "2",
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    environ = {**os.environ, "PYTHONPATH": f"{package}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "tenner", "train", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = (tmp_path / "out/my_lora/events.jsonl").read_text().splitlines()
    events = [event for event in map(parse_event, lines) if event is not None]
    drawn = [event for event in events if isinstance(event, Drew)]
    assert 1 in {event.epoch for event in drawn}
    assert all(Path(event.path).is_file() for event in drawn)
    steps = [place for place, event in enumerate(events) if isinstance(event, Step)]
    assert device.type == "cpu" or events.index(drawn[0]) < steps[-1]
    losses = [event.loss for event in events if isinstance(event, Step)]
    assert len(losses) == len({event.step for event in events if isinstance(event, Step)})
    assert all(loss == loss for loss in losses)
