"""The look at chosen epochs: where it is drawn, what, and that a run really does it."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tenner.base.tiny import concept_dir
from tenner.core.errors import SettingsError
from tenner.pipeline.early_sampler import FreeMemory, card_needs_mib, early_cells, where_to_draw
from tenner.pipeline.preflight import prepare
from tenner.planning.plan import Plan
from tenner.sample.cells import Prompt
from tenner.settings import load_request

JOB = {
    "base_model": "tiny",
    "dataset": str(concept_dir()),
    "resolution": "64",
    "min_bucket_reso": "64",
    "device": "cpu",
    "batch_size": "4",
    "optimizer_type": "AdamW",
}
PLENTY = 80_000


def plan_of(tmp_path: Path, **settings: str) -> Plan:
    request = load_request({**JOB, **settings}, {}, read_default_config=False)
    return prepare(request, {}, tmp_path).plan


@pytest.mark.parametrize(
    ("family", "card", "memory", "cpus", "where"),
    [
        ("sd1", PLENTY, PLENTY, 16, "cuda"),
        ("sdxl", PLENTY, PLENTY, 16, "cuda"),
        ("sdxl", 8000, PLENTY, 16, "after"),
        ("sd1", 1000, PLENTY, 16, "cpu"),
        ("sd1", None, PLENTY, 16, "cpu"),
        ("sd1", 1000, PLENTY, 2, "after"),
        ("sd1", 1000, 4000, 16, "after"),
    ],
)
def test_it_is_drawn_where_memory_suffices(
    tmp_path: Path, family: str, card: int | None, memory: int, cpus: int, where: str
) -> None:
    plan = plan_of(tmp_path)
    side = 1024 if family == "sdxl" else 512
    base = replace(plan.base, family=family)  # type: ignore[arg-type]
    on_card = replace(plan, base=base, device="cuda", resolution=(side, side))
    free = FreeMemory(card_mib=card, memory_mib=memory, cpus=cpus)
    assert where_to_draw(on_card, free) == where
    assert where_to_draw(replace(on_card, device="cpu"), free) == "cpu"


def test_what_a_picture_needs_grows_with_its_size_and_family() -> None:
    needs = [card_needs_mib("sd1", 512, 512), card_needs_mib("sd1", 768, 768)]
    needs += [card_needs_mib("sdxl", 768, 768), card_needs_mib("sdxl", 1024, 1024)]
    assert needs == sorted(needs)
    assert needs[0] > 3000
    assert needs[-1] < 14_000


def test_a_cpu_draws_few_pictures_and_a_card_the_strengths_and_seeds() -> None:
    settings = load_request(JOB, {}, read_default_config=False).settings
    prompts = [Prompt.of(text, "sks") for text in ("a star", "two")]
    few = early_cells(prompts, settings, "cpu")
    assert [(each.strength, each.seed) for each in few] == [(0, 1), (0.8, 1), (0, 2), (0.8, 2)]
    full = early_cells(prompts, settings, "cuda")
    assert len(full) == 2 * 5 * (1 + 4)


def test_checkpoints_are_saved_where_early_samples_need_one(tmp_path: Path) -> None:
    def kept_every(**settings: str) -> object:
        return plan_of(tmp_path, **settings).options.save_every_n_epochs

    assert kept_every() == 2
    assert kept_every(sample_at_epochs="6") == 2
    assert kept_every(sample_at_epochs="3 6") == 1
    assert kept_every(sample_at_epochs="3", save_every_n_epochs="3") == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"sample_at_epochs": "3", "save_every_n_epochs": "2"},
        {"sample_at_epochs": "3", "save_every_n_steps": "10"},
        {"sample_at_epochs": "3", "no_samples": "true"},
        {"sample_at_epochs": "0"},
    ],
)
def test_a_look_that_cannot_be_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="sample_at_epochs"):
        load_request({**JOB, **settings}, {}, read_default_config=False)


@pytest.mark.long
def test_a_run_shows_an_epoch_while_it_trains(tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TENNER_")}
    few = {"sample_at_epochs": "2", "sample_seeds": "1", "sample_strengths": "1"}
    few |= {"sample_steps": "2", "max_train_epochs": "2000", "output_name": "look"}
    few |= {"sample_sampler": "euler_a", "save_every_n_epochs": "2"}
    run = tmp_path / "output" / "look"
    sent = run / "delivered" / "samples" / "epoch-000002.png"
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenner", "train"]
            + [f"--{key}={value}" for key, value in {**JOB, **few}.items()],
            cwd=tmp_path,
            env={**environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None and not sent.is_file():
            time.sleep(0.1)
        assert process.poll() is None, "it still trains"
        (run / "STOP").touch()
        code = process.wait(timeout=100)
        log.seek(0)
        assert code == 0, log.read()
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    kinds = [json.loads(line)["event"] for line in lines]
    assert "step" in kinds[kinds.index("samples") :], "the training went on"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "After epoch" in page
    assert "The finished LoRA" in page
    manifest = json.loads((run / "delivered" / "manifest.json").read_text(encoding="utf-8"))
    assert "samples/epoch-000002.png" in {each["name"] for each in manifest["files"]}
    listing = json.loads((run / "samples" / "epoch-000002" / "samples.json").read_text())
    assert listing["settings"]["sampler"] == "EulerAncestralDiscreteScheduler"


def test_samplers_are_those_that_can_be_drawn_with() -> None:
    from typing import get_args

    from tenner.sample.load import SCHEDULERS
    from tenner.settings.model import Sampler

    assert set(get_args(Sampler)) == set(SCHEDULERS)
