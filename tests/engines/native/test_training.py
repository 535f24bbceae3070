"""The trainer's process on a tiny random base: files, states, resuming, several processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tenner.core.events import (
    Checkpoint,
    Done,
    EpochEnd,
    Event,
    Failed,
    Phase,
    StateSaved,
    Step,
    Warned,
)
from tenner.core.train_job import TrainJob
from tenner.engines.native import engine
from tenner.engines.native.engine import EngineExit

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make_base(tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def base_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make_base(tmp_path_factory.mktemp("sdxl"), "sdxl")


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory):
    return tiny_model.make_items(tmp_path_factory.mktemp("data"))


def start(job: TrainJob, **environ: str) -> subprocess.Popen[str]:
    location = Path(job.output_dir)
    location.mkdir(parents=True, exist_ok=True)
    path = location / "job.json"
    path.write_text(job.to_json())
    command = engine.command(path, Path(sys.executable))
    with (location / "stderr").open("w") as output:
        return subprocess.Popen(
            command.argv,
            env={**os.environ, **command.env, **environ},
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )


def train(job: TrainJob, expected: int = 0) -> list[Event]:
    process = start(job)
    out, _ = process.communicate(timeout=200)
    output = (Path(job.output_dir) / "stderr").read_text()
    assert process.returncode == expected, f"{out[-2000:]}\n{output[-3000:]}"
    return [event for event in map(engine.read, out.splitlines()) if event is not None]


def of_kind(events: list[Event], kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


def assert_same(one: Path, other: Path) -> None:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.long
def test_a_killed_run_goes_on_bit_for_bit(base, items, tmp_path: Path) -> None:
    common = {"max_train_steps": 40, "shuffle_caption": True, "caption_dropout_rate": 0.2,
              "flip_aug": True, "save_state_every_n_steps": 20, "noise_offset": 0.05,
              "lr_scheduler": "cosine", "network_dropout": 0.1}  # fmt: skip
    whole = tiny_model.make_job(base, tmp_path / "whole", items, **common)
    train(whole)
    broken = tiny_model.make_job(base, tmp_path / "broken", items, **common)
    process = start(broken)
    state = None
    for line in process.stdout:
        event = engine.read(line)
        if isinstance(event, StateSaved):
            state = event
            process.kill()
            break
    process.communicate()
    assert state is not None
    assert state.step == 20
    resumed = tiny_model.make_job(base, tmp_path / "broken", items, resume=state.path, **common)
    events = train(resumed)
    assert of_kind(events, Step)[0].step == 21
    assert_same(tmp_path / "whole" / "lora.safetensors", tmp_path / "broken" / "lora.safetensors")


def averaged(folder: Path, steps: int, decay: float) -> dict[str, torch.Tensor]:
    """The moving average of the weights that were saved after each step, in double precision."""
    found: dict[str, torch.Tensor] = {}
    for step in range(1, steps + 1):
        name = "lora" if step == steps else f"lora-step{step:08d}"
        weights = load_file(folder / f"{name}.safetensors")
        share = min(decay, (1 + step) / (10 + step))
        for key, value in weights.items():
            now = value.double()
            found[key] = now if step == 1 else share * found[key] + (1 - share) * now
    return found


@pytest.mark.long
def test_the_moving_average_is_that_of_all_steps_and_goes_on_bit_for_bit(
    base, items, tmp_path: Path
) -> None:
    common = {"max_train_steps": 6, "save_every_n_steps": 1, "save_precision": "float"}
    job = tiny_model.make_job(base, tmp_path / "whole", items, ema_decay=0.4, **common)
    train(job)
    found = load_file(tmp_path / "whole" / "lora-ema.safetensors")
    for key, expected in averaged(tmp_path / "whole", 6, 0.4).items():
        assert torch.allclose(found[key].double(), expected, rtol=1e-5, atol=1e-7), key
    raw = load_file(tmp_path / "whole" / "lora.safetensors")
    assert any(not torch.equal(raw[key], found[key]) for key in raw)

    half = replace(job, output_dir=str(tmp_path / "half"), state_dir=str(tmp_path / "states"))
    Path(half.output_dir).mkdir()
    events = train(replace(half, max_train_steps=3))
    resumed = train(replace(half, resume=of_kind(events, StateSaved)[-1].path))
    assert [each.step for each in of_kind(resumed, Step)] == [4, 5, 6]
    assert of_kind(resumed, Checkpoint)[-1].ema == str(tmp_path / "half" / "lora-ema.safetensors")
    for name in ("lora", "lora-ema"):
        assert_same(
            tmp_path / "whole" / f"{name}.safetensors", tmp_path / "half" / f"{name}.safetensors"
        )

    plain = tiny_model.make_job(base, tmp_path / "plain", items, **common)
    train(plain)
    assert_same(tmp_path / "plain" / "lora.safetensors", tmp_path / "whole" / "lora.safetensors")
    assert not list((tmp_path / "plain").glob("*-ema.safetensors"))


def test_a_signal_saves_the_state_and_ends_with_143(base, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(base, tmp_path, items, max_train_steps=5000)
    process = start(job)
    events = []
    for line in process.stdout:
        events.append(engine.read(line))
        if isinstance(events[-1], Step) and events[-1].step == 3:
            process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == EngineExit.STOPPED
    assert of_kind(events, StateSaved)[-1].step == of_kind(events, Step)[-1].step


def test_the_stop_file_ends_the_run_in_good_order(base, items, tmp_path: Path) -> None:
    stop = tmp_path / "STOP"
    stop.touch()
    job = tiny_model.make_job(base, tmp_path, items, stop_file=str(stop), max_train_steps=20)
    events = train(job)
    [step] = [event.step for event in of_kind(events, StateSaved)]
    assert [event.epoch for event in of_kind(events, EpochEnd)] == [1]
    assert [(event.step, event.epoch) for event in of_kind(events, Checkpoint)] == [(step, 1)]
    assert not of_kind(events, Done)


def test_a_damaged_state_is_reported_of(base, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(base, tmp_path, items, max_train_steps=2)
    state = Path(of_kind(train(job), StateSaved)[-1].path)
    content = bytearray((state / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (state / "state.pt").write_bytes(bytes(content))
    again = tiny_model.make_job(base, tmp_path, items, max_train_steps=4, resume=str(state))
    events = train(again, expected=EngineExit.BROKEN_STATE)
    assert "damaged" in of_kind(events, Failed)[0].text


def test_checkpoints_and_states_come_when_asked(base, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(
        base, tmp_path, items, max_train_steps=None, max_train_epochs=3, save_every_n_epochs=1,
        save_every_n_steps=5, keep_states=2,
    )  # fmt: skip
    events = train(job)
    names = [Path(event.path).name for event in of_kind(events, Checkpoint)]
    assert names[-1] == "lora.safetensors"
    assert {"lora-000001.safetensors", "lora-000002.safetensors"} <= set(names)
    assert "lora-step00000005.safetensors" in names
    assert len(list((tmp_path / "state").glob("step-*"))) == 2


@pytest.mark.long
@pytest.mark.parametrize("processes", [2])
def test_processes_together_do_what_one_does(base, items, tmp_path: Path, processes: int) -> None:
    alone = tiny_model.make_job(
        base, tmp_path / "one", items, train_batch_size=2, learning_rate=1e-3
    )
    train(alone)
    shared = tiny_model.make_job(
        base, tmp_path / "two", items, train_batch_size=1, learning_rate=1e-3
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        start(
            shared,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            ACCELERATE_USE_CPU="true",
        )
        for rank in range(processes)
    ]
    outs = [process.communicate(timeout=200)[0] for process in ranks]
    output = (tmp_path / "two" / "stderr").read_text()
    assert [process.returncode for process in ranks] == [0, 0], output[-3000:]
    assert not outs[1]
    one = load_file(tmp_path / "one" / "lora.safetensors")
    two = load_file(tmp_path / "two" / "lora.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


SAVES_ON_EACH = """
import os, sys
from tenner.engines.native import loop, train
from tenner.engines.native.lora_file import lora_tensors, write_lora
own = loop.Trainer.save_weights
def save_weights(self, name="", *, final=False):
    path = self.final_path().with_name(f"rank-{os.environ['RANK']}-{name}.safetensors")
    write_lora(path, lora_tensors(self._network.bank, "float"), {})
    own(self, name, final=final)
loop.Trainer.save_weights = save_weights
sys.exit(train.main(sys.argv[1:]))
"""


def launch(job: TrainJob, script: Path | None = None) -> subprocess.Popen[str]:
    """Two processes by accelerate, as on two cards."""
    location = Path(job.output_dir)
    location.mkdir(parents=True, exist_ok=True)
    (location / "job.json").write_text(job.to_json())
    made = engine.command(location / "job.json", Path(sys.executable), num_processes=2)
    argv = list(made.argv)
    if script:
        at = argv.index(engine.MODULE)
        argv[at - 1 : at + 1] = [str(script)]
    with (location / "stderr").open("w") as output:
        return subprocess.Popen(
            argv,
            env={**os.environ, **made.env},
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
        )


def test_launched_processes_hold_the_same_weights_and_one_of_them_saves(
    base, items, tmp_path: Path
) -> None:
    script = tmp_path / "each.py"
    script.write_text(SAVES_ON_EACH)
    job = tiny_model.make_job(
        base, tmp_path / "out", items, train_batch_size=1, learning_rate=1e-2, max_train_steps=8,
        save_every_n_steps=4, save_state=True, save_precision="float",
    )  # fmt: skip
    process = launch(job, script)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, (tmp_path / "out" / "stderr").read_text()[-3000:]
    events = [event for event in map(engine.read, out.splitlines()) if event is not None]
    assert [event.step for event in of_kind(events, Step)] == list(range(1, 9))
    assert [event.step for event in of_kind(events, Checkpoint)] == [4, 8]
    assert [event.step for event in of_kind(events, StateSaved)] == [4, 8]
    assert len(of_kind(events, Done)) == 1
    for name in ("step00000004", ""):
        one, other = (tmp_path / "out" / f"rank-{rank}-{name}.safetensors" for rank in (0, 1))
        assert_same(one, other)
        saved = load_file(tmp_path / "out" / f"lora{'-' if name else ''}{name}.safetensors")
        assert all(torch.equal(value, saved[key]) for key, value in load_file(one).items())


def test_launched_processes_end_with_their_launcher(base, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(base, tmp_path, items, train_batch_size=1, max_train_steps=100_000)
    process = launch(job)
    assert process.stdout is not None
    for line in process.stdout:
        if isinstance(engine.read(line), Step):
            process.kill()  # the launcher alone: its workers have sessions of their own
            break
    process.communicate(timeout=30)  # workers that live on would hold the output open


def test_losses_that_are_not_finite_end_the_run(base, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(
        base, tmp_path, items, noise_offset=float("inf"), max_nonfinite_steps=3
    )
    events = train(job, expected=EngineExit.NOT_FINITE)
    assert len(of_kind(events, Warned)) == 3
    assert of_kind(events, Failed)[0].kind == "nan"


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"base": "/nowhere/base"}, EngineExit.BASE_MODEL, "base"),
        ({"optimizer_type": "Wonder"}, EngineExit.JOB, "Wonder"),
        ({"optimizer_args": {"betass": 1}}, EngineExit.JOB, "optimizer_args"),
        ({"items": ()}, EngineExit.NO_DATA, "no image"),
        ({"family": "sdxl"}, EngineExit.BASE_MODEL, ""),
        ({"network_weights": "/nowhere.safetensors"}, EngineExit.JOB, "nowhere"),
        ({"optimizer_type": "AdamW8bit"}, EngineExit.JOB, "GPU"),
    ],
)
def test_what_cannot_be_done_is_reported(base, items, tmp_path, changes, code, words) -> None:
    if changes.get("optimizer_type") == "AdamW8bit" and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    job = replace(tiny_model.make_job(base, tmp_path, items), **changes)
    events = train(job, expected=code)
    assert words in of_kind(events, Failed)[0].text


@pytest.mark.long
def test_precisions_schedules_and_options_all_learn(base, items, tmp_path: Path) -> None:
    variants = [
        {"mixed_precision": "bf16", "gradient_checkpointing": True},
        {"network_train_unet_only": True, "min_snr_gamma": 5.0, "lr_scheduler": "linear"},
        {"network_train_text_encoder_only": True, "max_token_length": 225, "clip_skip": 2},
        {"conv_dim": 2, "conv_alpha": 1.0, "gradient_accumulation_steps": 2,
         "optimizer_type": "Adafactor", "v_parameterization": True, "zero_terminal_snr": True},
        {"rank_dropout": 0.2, "module_dropout": 0.2, "optimizer_type": "SGD",
         "multires_noise_iterations": 3, "ip_noise_gamma": 0.1},
        {"optimizer_type": "Lion", "mixed_precision": "fp16"},
        {"optimizer_type": "Prodigy", "learning_rate": 1.0, "text_encoder_lr": (1.0,)},
    ]  # fmt: skip
    for index, changes in enumerate(variants):
        job = tiny_model.make_job(base, tmp_path / str(index), items, max_train_steps=3, **changes)
        train(job)
        tensors = load_file(tmp_path / str(index) / "lora.safetensors")
        ups = [value for name, value in tensors.items() if "lora_up" in name]
        assert any(float(up.abs().max()) > 0 for up in ups)
        assert all(bool(torch.isfinite(up).all()) for up in ups)


@pytest.mark.parametrize(
    "changes", [{}, {"conv_dim": 3, "conv_alpha": 4.5}, {"conv_dim": 2}], ids=str
)
def test_diffusers_loads_the_file_to_the_same_effect(
    base, items, tmp_path: Path, changes: dict[str, object]
) -> None:
    """Convolutions too, scaled by their own alpha over their own rank; 1 where none is set."""
    from diffusers import StableDiffusionPipeline

    from tenner.engines.native.load import load_base
    from tenner.engines.native.lora_file import read_lora
    from tenner.engines.native.network import build_network

    job = tiny_model.make_job(base, tmp_path, items, learning_rate=5e-2, **changes)
    train(job)
    tensors = load_file(tmp_path / "lora.safetensors")
    for name, down in tensors.items():
        if name.endswith("lora_down.weight"):
            is_wide = down.shape[2:] == (3, 3)
            dim, alpha = (
                (changes["conv_dim"], changes.get("conv_alpha", 1.0)) if is_wide else (4, 2)
            )
            found = tensors[name.replace("lora_down.weight", "alpha")]
            assert (down.shape[0], float(found)) == (dim, alpha)
    assert ("conv_dim" in changes) == any(value.shape[2:] == (3, 3) for value in tensors.values())
    network = build_network(job, load_base(job), torch.device("cpu"))
    read_lora(tmp_path / "lora.safetensors", network.bank)
    pipe = StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    torch.manual_seed(0)
    latents, times = torch.randn(2, 4, 8, 8), torch.tensor([10, 700])
    with torch.no_grad():
        ours = network.texts.encode(["sks star", "a photo"]).context
        ids = pipe.tokenizer(
            ["sks star", "a photo"], padding="max_length", max_length=77, return_tensors="pt"
        ).input_ids
        theirs = pipe.text_encoder(ids)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        found = network.unet(latents, times, ours)
        expected = pipe.unet(latents, times, theirs).sample
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        pipe.unload_lora_weights()
        assert float((pipe.unet(latents, times, theirs).sample - found).abs().max()) > 1e-2


def test_the_file_says_what_it_is_and_names_no_path(base, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(base, tmp_path, items, max_train_steps=2, training_comment="a try")
    train(job)
    path = tmp_path / "lora.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_training_comment"] == "a try"
    assert json.loads(metadata["ss_tag_frequency"])["2_sks"]["sks star"] == 6
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    content = path.read_bytes()
    import hashlib

    start_of_tensors = 8 + int.from_bytes(content[:8], "little")
    digest = hashlib.sha256(content[start_of_tensors:]).hexdigest()
    assert metadata["sshs_model_hash"] == digest
    assert str(tmp_path.parent) not in json.dumps(metadata)


def test_latents_on_disk_give_the_same_weights(base, items, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    for name in ("first", "second"):
        job = tiny_model.make_job(
            base, tmp_path / name, items, max_train_steps=3, cache_dir=cache, flip_aug=True
        )
        began = time.monotonic()
        train(job)
        assert time.monotonic() > began
    assert len(list((tmp_path / "cache").iterdir())) == 12
    assert_same(tmp_path / "first" / "lora.safetensors", tmp_path / "second" / "lora.safetensors")


def test_sdxl_learns_with_both_text_encoders(base_xl, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(base_xl, tmp_path, items, family="sdxl", learning_rate=1e-2)
    train(job)
    tensors = load_file(tmp_path / "lora.safetensors")
    for prefix in ("lora_te1_", "lora_te2_", "lora_unet_input_blocks_3_1_"):
        moved = [v for n, v in tensors.items() if n.startswith(prefix) and "lora_up" in n]
        assert any(float(value.abs().max()) > 0 for value in moved)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_a_compiled_unet_learns_the_same_and_says_what_it_cost(base, items, tmp_path) -> None:
    events = train(
        tiny_model.make_job(
            base, tmp_path / "compiled", items[:1], max_train_steps=2, torch_compile=True
        )
    )
    text = [phase.detail for phase in of_kind(events, Phase) if phase.name == "compiling"]
    assert len(text) == 2
    assert "the first step took" in text[1]
    plain = train(tiny_model.make_job(base, tmp_path / "one", items[:1], max_train_steps=2))
    losses = [[event.loss for event in of_kind(found, Step)] for found in (plain, events)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_sd2_learns_velocity_as_its_scheduler_says(items, tmp_path: Path) -> None:
    base = tiny_model.make_base(tmp_path / "base", "sd2")
    train(tiny_model.make_job(base, tmp_path / "run", items, family="sd2", max_train_steps=3))
    with safe_open(tmp_path / "run" / "lora.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_v2"] == "True"
    assert metadata["ss_base_model_version"] == "sd_v2_v"
    assert metadata["modelspec.prediction_type"] == "v"


def test_of_two_text_encoders_one_at_rate_0_is_left_out(base_xl, items, tmp_path: Path) -> None:
    rates = {"text_encoder_lr": (1e-3, 0.0), "max_train_steps": 1}
    job = tiny_model.make_job(base_xl, tmp_path, items, family="sdxl", **rates)
    train(job)
    names = set(load_file(tmp_path / f"{job.output_name}.safetensors"))
    assert any(name.startswith("lora_te1_") for name in names)
    assert not any(name.startswith("lora_te2_") for name in names)
