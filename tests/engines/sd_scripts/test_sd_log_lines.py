"""sd-scripts' own output, captured from real runs of the pinned commit, as events.

`logs/` holds runs of Stable Diffusion 1.5 with random weights at 64 px on a CPU, paths made
neutral. `resumed_narrow`, `no_data` and `nan` are 80 columns wide, so messages wrap; the CUDA
error in `oom` was raised by hand in a real run.
"""

import json
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenner.core.events import Checkpoint, Done, EpochEnd, Event, Failed, StateSaved, Step, Warned
from tenner.engines.sd_scripts.log_lines import NAN_STEPS, LogReader, Output
from tenner.engines.sd_scripts.log_text import english, pieces
from tenner.engines.sd_scripts.resume import Attempt

E = TypeVar("E", bound=Event)
LOGS = Path(__file__).parent / "logs"


def reader(attempt: Attempt, name: str = "my_lora", accumulation: int = 1) -> LogReader:
    output = Output(
        attempt=attempt,
        output_dir="/run/out",
        output_name=name,
        images_per_step=2,
        gradient_accumulation_steps=accumulation,
        learning_rates=lambda step: {"unet": step * 1e-6},
    )
    return LogReader(output)


def lines(name: str) -> list[str]:
    text = (LOGS / f"{name}.txt").read_bytes().decode()
    return [line for line in text.replace("\r", "\n").split("\n") if line.strip()]


def events(
    name: str, attempt: Attempt, output_name: str = "my_lora", accumulation: int = 1
) -> list[Event]:
    follow = reader(attempt, output_name, accumulation)
    return [event for line in lines(name) if (event := follow.read(line)) is not None]


def of_kind(found: list[Event], kind: type[E]) -> list[E]:
    return [event for event in found if isinstance(event, kind)]


TWO_EPOCHS = Attempt(num_steps=20, steps_per_epoch=10)


def test_a_whole_run() -> None:
    found = events("epochs", TWO_EPOCHS)
    steps = of_kind(found, Step)
    assert [each.step for each in steps] == list(range(1, 21))
    assert (steps[0].loss_avg, steps[1].loss_avg, steps[-1].loss_avg) == (1.06, 1.07, 1.14)
    assert [each.epoch for each in steps] == [1] * 10 + [2] * 10
    assert steps[0].seconds_per_step == 45.0
    assert steps[4].lr == {"unet": pytest.approx(5e-6)}
    assert [each.epoch for each in of_kind(found, EpochEnd)] == [1, 2]
    first, final = of_kind(found, Checkpoint)
    assert (first.path, first.step, first.final) == (
        "/run/epochs/my_lora-000001.safetensors",
        10,
        False,
    )
    assert (final.step, final.epoch, final.final) == (20, 2, True)
    assert [each.path for each in of_kind(found, StateSaved)] == [
        "/run/out/my_lora-000001-state",
        "/run/out/my_lora-state",
    ]
    assert found[-1] == Done(path="/run/epochs/my_lora.safetensors", step=20)
    assert not of_kind(found, Warned)
    assert not of_kind(found, Failed)
    phases = [json.loads(event.to_json()) for event in found]
    names = dict.fromkeys(each["name"] for each in phases if each["event"] == "phase")
    assert list(names) == ["dataset", "loading", "caching latents", "training", "sampling"]
    assert any(each.get("done") == each.get("total") == 20 for each in phases)


def test_wrapped_lines_and_a_resumed_whole_epoch_run() -> None:
    attempt = Attempt(first_step=10, num_steps=30, steps_per_epoch=10)
    found = events("resumed_narrow", attempt, "lora")
    assert [each.step for each in of_kind(found, Step)] == list(range(11, 31))
    assert [each.step for each in of_kind(found, Checkpoint)] == [20, 30]
    assert [each.epoch for each in of_kind(found, EpochEnd)] == [2, 3]


def test_three_attempts_are_one_run() -> None:
    steps, checkpoints = set[int](), list[int]()
    for number, first in enumerate((0, 4, 8), 1):
        name = "killed_life_1" if number == 1 else f"resumed_life_{number}"
        attempt = Attempt(first_step=first, num_steps=13, steps_per_epoch=10)
        found = events(name, attempt, "lora")
        steps |= {each.step for each in of_kind(found, Step)}
        checkpoints += [each.step for each in of_kind(found, Checkpoint)]
        assert of_kind(found, StateSaved)[0].step == first + 4
    assert steps == set(range(1, 14))
    assert checkpoints == [4, 8, 12, 13]


def test_accumulated_gradients_make_one_step() -> None:
    found = events("accumulation", Attempt(num_steps=6, steps_per_epoch=3), accumulation=4)
    assert [each.step for each in of_kind(found, Step)] == [1, 2, 3, 4, 5, 6]
    assert not of_kind(found, Warned)


def test_an_epoch_of_another_length_than_planned_is_reported() -> None:
    found = events("accumulation", Attempt(num_steps=6, steps_per_epoch=4), accumulation=4)
    [warned] = of_kind(found, Warned)
    assert warned.text == "an epoch has 3 steps in sd-scripts, and 4 in the plan"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("oom", "oom", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 78.00 MiB"),
        ("no_data", "no_data", "found no images"),
        ("no_model", "base_model", "neither a valid local path"),
        ("bad_optimizer", "other", "no attribute 'NoSuch'"),
    ],
)
def test_how_a_run_failed(name: str, kind: str, message: str) -> None:
    found = events(name, TWO_EPOCHS)
    [failed] = of_kind(found, Failed)
    assert failed.kind == kind
    assert message in failed.text
    assert failed.fix
    assert not of_kind(found, Checkpoint)


def test_a_loss_that_is_no_number_is_reported_and_then_fails() -> None:
    found = events("nan", Attempt(num_steps=5, steps_per_epoch=10), "lora")
    assert [each.step for each in of_kind(found, Step)] == [1]
    assert "from step 2 on" in of_kind(found, Warned)[0].text
    follow = reader(Attempt(num_steps=100, steps_per_epoch=100))
    reported = [
        follow.read(f"steps:  1%|x| {step}/100 [00:01<00:09,  2.00it/s, avr_loss=nan]")
        for step in range(1, NAN_STEPS + 2)
        for _ in range(2)
    ]
    [failed] = [each for each in reported if isinstance(each, Failed)]
    assert failed.kind == "nan"


def test_a_file_is_not_told_before_it_is_whole() -> None:
    follow = reader(TWO_EPOCHS)
    assert follow.read("saving checkpoint: /run/out/my_lora.safetensors") is None
    assert follow.read("Traceback (most recent call last):") is None
    failed = follow.read("OSError: [Errno 28] No space left on device")
    assert isinstance(failed, Failed)
    assert failed.kind == "disk"
    assert not any(isinstance(follow.read("some line"), Checkpoint) for _ in range(3))


def test_a_warning_while_a_file_is_written_does_not_make_it_whole() -> None:
    follow = reader(TWO_EPOCHS)
    follow.read("saving checkpoint: /run/out/my_lora.safetensors")
    warning = "2026-11-25 13:41:08 WARNING  Could not determine git commit: 'git'  spec.py:292"
    assert follow.read(warning) is None
    info = "                    INFO     model saved.   train_network.py:1729"
    saved = follow.read(info)
    assert isinstance(saved, Checkpoint)
    assert saved.final


def test_warnings_are_reported_whole_once_and_in_english() -> None:
    follow = reader(TWO_EPOCHS)
    wrapped = [
        "2026-11-25 04:46:17 WARNING  No caption file found for   train_util.py:2090",
        "                             3 images. Training will",
        "                             continue / 3枚の画像に",
        "                    INFO     next                     train_util.py:1",
    ]
    reported = [event for line in wrapped * 2 if (event := follow.read(line))]
    [warned] = reported
    assert isinstance(warned, Warned)
    assert warned.text == "No caption file found for 3 images. Training will continue"
    assert warned.fix


def test_a_bar_and_a_record_on_one_line_are_two_pieces() -> None:
    line = "steps:  50%|██ | 5/10 [00:14<00:14,  2.92s/it, avr_loss=1.13]" + " " * 20 + "INFO     x"
    bar, record = pieces(line)
    assert (type(bar).__name__, type(record).__name__) == ("Bar", "Record")


def test_only_the_english_half_of_a_message_is_reported() -> None:
    assert english("no images / 画像がありません") == "no images"
    assert english("either / or") == "either / or"


@given(st.lists(st.text(max_size=120), max_size=10))
def test_no_line_ever_stops_the_reader(noise: list[str]) -> None:
    follow = reader(TWO_EPOCHS)
    for line in noise:
        follow.read(line)


NCCL = (
    "Traceback (most recent call last):",
    '  File "/opt/sd-scripts/train_network.py", line 1115, in train',
    "    accelerator.backward(loss)",
    "torch.distributed.DistBackendError: NCCL error in: ../NCCLUtils.hpp:275, unhandled cuda error",
    "ncclUnhandledCudaError: Call to CUDA function failed.",
    "Last error:",
)


@pytest.mark.parametrize("prefix", ["", "[rank1]: "])
@pytest.mark.parametrize(
    ("why", "kind"),
    [
        ("Failed to CUDA calloc async 608 bytes", "oom"),
        ("Cuda failure 2 'out of memory'", "oom"),
        ("Cuda failure 999 'unknown error'", "host"),
    ],
)
def test_memory_that_nccl_lacked_is_told_after_what_failed_for_it(
    prefix: str, why: str, kind: str
) -> None:
    follow = reader(TWO_EPOCHS)
    read = (follow.read(prefix + line) for line in (*NCCL, why))
    failures = of_kind([event for event in read if event], Failed)
    assert failures[-1].kind == kind
