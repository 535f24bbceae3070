"""A pass can be a CUDA graph: tested on a CPU by a stand-in that refuses what a graph cannot do,
and by fake tensors on a device of their own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
from replaying import NotStaticError, Replaying, recorded
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tenner.core.events import Event, Step, Warned
from tenner.core.train_job import TrainJob
from tenner.engines.native import small_maps
from tenner.engines.native.batches import schedule_of
from tenner.engines.native.feed import Samples
from tenner.engines.native.graphs import GraphedPass, reason_against
from tenner.engines.native.latents import encode_all
from tenner.engines.native.load import load_base, load_vae
from tenner.engines.native.loop import Trainer
from tenner.engines.native.network import build_network
from tenner.engines.native.noise import NoiseSchedule
from tenner.engines.native.passes import PassInputs, TrainingPass
from tenner.engines.native.processes import Processes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        family: tiny_model.make_base(tmp_path_factory.mktemp(family), family)
        for family in ("sd1", "sdxl")
    }


def make_job(bases: dict[str, Path], folder: Path, family: str, **changes: object) -> TrainJob:
    items = tiny_model.make_items(folder / "data", 5)
    changes = {"train_batch_size": 3, **changes}  # of 16x16 two batches of 3, of 16x24 of 3 and 1
    return tiny_model.make_job(bases[family], folder, items, family=family, **changes)


def make_trainer(job: TrainJob) -> tuple[Trainer, list[Event]]:
    loaded, events = load_base(job), []
    latents = encode_all(job, lambda: load_vae(loaded), "vae", CPU, lambda *_: None)
    network = build_network(job, loaded, CPU)
    noise = NoiseSchedule(job, loaded.scheduler)
    alone = Processes(rank=0, count=1, device=CPU)
    trainer = Trainer(job, network, noise, latents, schedule_of(job), alone, events.append)  # pyright: ignore[reportArgumentType]
    trainer.encode_captions(lambda *_: None)
    return trainer, events


def steps(trainer: Trainer, events: list[Event]) -> tuple[torch.Tensor, list[float]]:
    """Weights and losses after all steps."""
    for _ in range(trainer._job.max_train_steps):
        trainer._one_step()
    trainer._losses.flush()
    losses = [event.loss for event in events if isinstance(event, Step)]
    return trainer._network.bank.weights.clone(), losses


CASES: dict[str, tuple[str, dict[str, object]]] = {
    "text encoder": ("sd1", {"min_snr_gamma": 5.0, "shuffle_caption": True}),
    "accumulation": (
        "sd1",
        {"gradient_accumulation_steps": 3, "network_train_unet_only": True, "max_train_steps": 4},
    ),
    "dropouts": ("sd1", {"network_dropout": 0.2, "rank_dropout": 0.2}),
    "convolutions, SDXL": (
        "sdxl",
        {"conv_dim": 2, "gradient_accumulation_steps": 2, "network_train_unet_only": True},
    ),
    "text encoders, SDXL, bf16": (
        "sdxl",
        {"mixed_precision": "bf16", "gradient_accumulation_steps": 2, "max_token_length": 150},
    ),
    "checkpointing, loss scale": (
        "sd1",
        {"mixed_precision": "fp16", "gradient_checkpointing": True, "ip_noise_gamma": 0.1},
    ),
}


LONG = ("convolutions, SDXL", "text encoders, SDXL, bf16", "checkpointing, loss scale")


@pytest.mark.parametrize(
    "case", [pytest.param(each, marks=pytest.mark.long) if each in LONG else each for each in CASES]
)
def test_replayed_passes_train_the_same_weights(
    case: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    family, changes = CASES[case]
    job = make_job(bases, tmp_path, family, **changes)
    expected = steps(*make_trainer(job))
    trainer, events = make_trainer(replace(job, cuda_graphs=True))
    backend = Replaying()
    trainer.capture_graphs(backend)
    graphs = trainer._run_pass
    assert isinstance(graphs, GraphedPass)
    backend.inputs = [t for graph in graphs._graphs.values() for t in graph.inputs.tensors()]
    found = steps(trainer, events)
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]
    shapes, has_later_passes = 3, job.gradient_accumulation_steps > 1
    both = has_later_passes and job.mixed_precision == "no" and not job.conv_dim
    assert backend.num_captured == shapes * (2 if both else 1)
    assert backend.num_warm_ups == 2 * backend.num_captured
    passes = [len(trainer._feed._batches(step)) for step in range(job.max_train_steps)]
    assert backend.num_replays == sum(passes)
    assert not any(isinstance(event, Warned) for event in events)


def test_masks_are_inputs_too(bases: dict[str, Path], tmp_path: Path) -> None:
    job = make_job(bases, tmp_path, "sd1", max_train_steps=1)
    trainer, _ = make_trainer(job)
    [each] = trainer._feed.passes(0)
    assert each.samples is not None
    masks = torch.rand(len(each.samples.captions), 1, *each.samples.noisy.shape[2:])
    masked = trainer._pass.inputs(replace(each.samples, masks=masks))
    graphed = GraphedPass(trainer._pass, trainer._network.bank, Replaying())
    assert graphed.prepare([masked], accumulates=False) == 1
    bank = trainer._network.bank
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for run in (trainer._pass, graphed):
        other = replace(masked, samples=replace(masked.samples, masks=masks.square()))
        bank.begin_pass(first=True, num_samples=len(masks))
        found.append((run(other).clone(), bank.pass_grads.clone()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_shape_that_was_not_captured_runs_without_a_graph(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenner.engines.native.loop.MOST_GRAPHS", 1)
    job = make_job(bases, tmp_path, "sd1", network_train_unet_only=True)
    expected = steps(*make_trainer(job))
    trainer, events = make_trainer(replace(job, cuda_graphs=True))
    backend = Replaying()
    trainer.capture_graphs(backend)
    found = steps(trainer, events)
    assert backend.num_captured == 1
    assert 0 < backend.num_replays < job.max_train_steps
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


class Failing(Replaying):
    """Fails at the second capture."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        if self.num_captured:
            raise RuntimeError(self.text)
        return super().capture(run)


def test_a_failed_capture_is_reported_and_trains_the_same_weights(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    job = make_job(bases, tmp_path, "sd1")
    expected = steps(*make_trainer(job))
    trainer, events = make_trainer(replace(job, cuda_graphs=True))
    backend = Failing("CUDA error: operation not permitted when stream is capturing\nmore")
    trainer.capture_graphs(backend)
    found = steps(trainer, events)
    [notice] = [event for event in events if isinstance(event, Warned)]
    assert notice.level == "note"
    assert notice.text.endswith("operation not permitted when stream is capturing")
    assert backend.num_replays == 0
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


def test_running_out_of_memory_in_a_capture_raises_as_in_a_step(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    trainer, events = make_trainer(make_job(bases, tmp_path, "sd1", cuda_graphs=True))
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        trainer.capture_graphs(Failing("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not any(isinstance(event, Warned) for event in events)


def test_on_a_cpu_the_setting_changes_nothing_and_is_reported(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    job = make_job(bases, tmp_path, "sd1", max_train_steps=2)
    expected = steps(*make_trainer(job))
    trainer, events = make_trainer(replace(job, cuda_graphs=True))
    trainer.capture_graphs()
    found = steps(trainer, events)
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]
    [notice] = [event for event in events if isinstance(event, Warned)]
    assert notice.text == "trained without CUDA graphs: there is no NVIDIA card"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"network_dropout": 0.1, "rank_dropout": 0.1}, ""),
        ({"gradient_checkpointing": True}, ""),
        ({"module_dropout": 0.1}, "module_dropout"),
        ({"network_dropout": 0.1, "gradient_checkpointing": True}, "the same numbers twice"),
        ({"torch_compile": True}, "torch_compile"),
    ],
)
def test_what_cannot_be_captured_is_named(
    changes: dict[str, object], reason: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    job = make_job(bases, tmp_path, "sd1", **changes)
    found = reason_against(job, torch.device("cuda"))
    assert reason in (found or "") if reason else found is None


def not_static() -> dict[str, Callable[[], object]]:
    """Functions that a graph would repeat wrongly, by their fault."""
    numbers, state = torch.ones(4), {"step": 0, "buffer": torch.ones(4), "old": []}

    def counts() -> None:
        state["step"] += 1
        numbers.mul_(state["step"])

    def moves() -> None:
        state["old"].append(state["buffer"])
        state["buffer"] = torch.ones(4)
        numbers.add_(state["old"][-1])

    def decides() -> None:
        state["step"] += 1
        if state["step"] > 1:
            numbers.neg_()

    return {
        "reads a number back": lambda: numbers.mul_(float(numbers.sum())),
        "takes a number from the host": lambda: numbers.add_(torch.tensor([2.0])),
        "seeds": lambda: torch.manual_seed(3),
        "counts": counts,
        "moves a buffer": moves,
        "decides": decides,
    }


@pytest.mark.parametrize("fault", not_static())
def test_the_stand_in_refuses_what_a_graph_would_not_repeat(fault: str) -> None:
    run = not_static()[fault]
    with pytest.raises(NotStaticError):
        Replaying().capture(run)()


class OnOneDevice(TorchDispatchMode):
    """Refuses operations that read or make a tensor on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        devices = {
            each.device.type
            for each in tree_leaves((args, kwargs or {}, result))
            if isinstance(each, torch.Tensor)
        }
        assert devices <= {"meta"}, f"{function} is on {devices}"
        self.count += 1
        return result


@pytest.mark.parametrize("case", CASES)
def test_a_pass_neither_waits_for_its_device_nor_copies_from_the_host(
    case: str, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On fake tensors, from which no number can be read."""
    monkeypatch.setattr(small_maps, "MOST_POSITIONS", 0)  # used on CPUs alone
    family, changes = CASES[case]
    job = make_job(bases, tmp_path, family, **changes)
    meta = torch.device("meta")
    network = build_network(job, load_base(job), meta)
    run = TrainingPass(network, lambda loss: loss * torch.empty((), device=meta))
    batch, wide = 2, network.unet.config.context_dim
    rows = batch * (job.max_token_length // 75)
    text = [torch.empty(rows, 77, dtype=torch.long, device=meta) for _ in network.texts.encoders]
    if not network.trains_text:
        text = [torch.empty(batch, 77, wide, device=meta)]
        text += [torch.empty(batch, 24, device=meta)] if family == "sdxl" else []
    samples = Samples(
        noisy=torch.empty(batch, 4, 8, 12, device=meta, dtype=network.dtype),
        target=torch.empty(batch, 4, 8, 12, device=meta),
        timesteps=torch.empty(batch, dtype=torch.long, device=meta),
        share=torch.empty(batch, device=meta),
        sizes=torch.empty(batch, 6, device=meta),
        masks=torch.empty(batch, 1, 8, 12, device=meta),
        captions=(),
    )
    inputs = PassInputs(samples=samples, text=tuple(text))
    network.bank.begin_pass(first=True, num_samples=batch)
    with OnOneDevice() as operations:
        assert run(inputs).device == meta
    assert operations.count > 300


def test_the_check_of_one_device_sees_a_copy_from_the_host() -> None:
    numbers = torch.empty(4, device="meta")
    with pytest.raises(AssertionError, match="cpu"), OnOneDevice():
        numbers.add_(torch.tensor([2.0]).to("meta"))
    with pytest.raises(RuntimeError, match="meta"), OnOneDevice():
        float(numbers.sum())


def test_a_recording_holds_scalars_and_outer_memory() -> None:
    numbers = torch.ones(4)
    [(name, scalars, tensors)] = recorded(lambda: numbers.mul_(3))
    assert name == "aten.mul_.Tensor"
    assert scalars == ["3"]
    assert tensors[0][0] == numbers.data_ptr()
