"""A run of the whole program that is cut off after a state and started again, against one that was
not."""

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from tenner.base.tiny import concept_dir
from tests.engines.sd_scripts.test_sd_real import (
    CHANGES_WITH_TIME,
    LIGHT,
    TENNER,
    cut,
    events,
    start,
)

EXIT_CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143}


def assert_resumed_as_if_never_cut(
    folder: Path,
    base: Path,
    sent: signal.Signals,
    *more: str | Path,
    program: Sequence[str] = TENNER,
) -> None:
    """Cut off after the state of step 2 of 5 and started again: the same weights, bit for bit, and
    each step once."""
    data = folder / "data" / "2_sks star"
    data.mkdir(parents=True)
    for number in (1, 2):
        for file in (concept_dir() / "1_sks star").glob(f"{number:02d}.*"):
            shutil.copy(file, data)
    words: tuple[str | Path, ...] = (
        *("--base_model", base, "--dataset", folder / "data", *LIGHT),
        *("--batch_size", "1", "--max_train_steps", "5", "--lr_warmup_steps", "1"),
        *("--flip_aug", "true", "--lr_scheduler", "cosine", "--learning_rate", "1e-3"),
        *("--grace_seconds", "300", "--save_state_every_minutes", "0.0001", *more),
    )
    whole, attempts = folder / "whole", folder / "attempts"
    ended = start(whole, *words, program=program).wait()
    assert ended == 0, (whole / "program.log").read_text()
    code = cut(attempts, sent, "state", 2, *words, program=program)
    log, run = attempts / "program.log", attempts / "output" / "my_lora"
    assert code == EXIT_CODES[sent], log.read_text()
    reached = max(int(each.name.split("-")[1]) for each in (run / "state").glob("step-*"))
    assert 2 <= reached < 5, log.read_text()
    assert start(attempts, *words, program=program).wait() == 0, log.read_text()
    steps = [each["step"] for each in events(run, "step")]
    assert steps[reached - 5 :] == list(range(reached + 1, 6))
    assert steps.count(1) == 1
    _assert_same_file(whole / "output" / "my_lora", run)


def _assert_same_file(whole: Path, run: Path) -> None:
    name = "delivered/my_lora.safetensors"
    with safe_open(whole / name, "pt") as one, safe_open(run / name, "pt") as other:
        names = list(one.keys())
        assert names == list(other.keys())
        differ = [name for name in names if not one.get_tensor(name).equal(other.get_tensor(name))]
        expected, found = one.metadata(), other.metadata()
    assert {key for key in expected if expected[key] != found[key]} <= set(CHANGES_WITH_TIME)
    assert found["ss_steps"] == "5"
    assert differ == []
