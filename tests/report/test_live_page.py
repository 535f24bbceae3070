"""The page during a run, and at every way it can end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tenner.base.tiny import concept_dir
from tenner.core.errors import (
    BudgetReached,
    DeliveryError,
    Problem,
    Stopped,
    TennerError,
    TrainingError,
)
from tenner.core.event_log import EventLog, read_event_lines
from tenner.core.events import EpochEnd, Event, Step, Warned
from tenner.core.run_dir import RunDir
from tenner.core.secrets import Secrets
from tenner.pipeline.preflight import prepare
from tenner.planning.prepared import Prepared
from tenner.report.history import History
from tenner.report.live_page import LivePage
from tenner.settings import load_request
from tenner.supervision.budget import Budget

JOB = {
    "base_model": "tiny",
    "dataset": str(concept_dir()),
    "resolution": "64",
    "min_bucket_reso": "64",
    "device": "cpu",
    "max_train_steps": "100",
    "optimizer_type": "AdamW",
}


FREE = Budget(max_cost_usd=10, max_hours=None, price_per_hour=None)


def step(number: int, *, loss: float = 0.1, epoch: int = 1) -> Step:
    return Step(
        step=number,
        num_steps=100,
        epoch=epoch,
        num_epochs=4,
        loss=loss,
        loss_avg=loss,
        lr={"unet": 1e-4},
        images_per_second=3.5,
        seconds_per_step=36.0,
    )


def last_step(live: Path) -> int:
    return json.loads(live.read_text(encoding="utf-8"))["step"] if live.is_file() else 0


Prepare = Callable[..., Prepared]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    def made(**settings: str) -> Prepared:
        request = load_request({**JOB, **settings}, {}, read_default_config=False)
        return prepare(request, {}, tmp_path / "work")

    return made


def page_of(prepared: Prepared, tmp_path: Path, **more: object) -> LivePage:
    text: list[Event] = []
    run_dir = RunDir(tmp_path / "run").create()
    return LivePage(
        **{"budget": FREE, "prepared": prepared, "run_dir": run_dir, "emit": text.append, **more}
    )


def end(page: LivePage, event: Event, error: BaseException) -> None:
    """Take an event, then end with an error, which is raised further."""

    def run() -> None:
        with page:
            page.handle(event)
            raise error

    with pytest.raises(type(error)):
        run()


def test_it_shows_steps_time_left_dollars_and_warnings(prepared: Prepare, tmp_path: Path) -> None:
    seconds = 0.0
    budget = Budget(
        max_cost_usd=10, max_hours=None, price_per_hour=2, spent_usd=1.25, spent_seconds=1800
    )
    page = page_of(prepared(), tmp_path, now=lambda: seconds, started=0.0, budget=budget)
    for number in range(1, 41):
        seconds += 36
        page.handle(step(number))
    page.handle(Warned(text="the card is throttling", fix="let it cool"))
    page.write()
    reported = re.sub(r"<[^>]*>", "", page.run_dir.report.read_text(encoding="utf-8"))
    for words in ("40 / 100", "the card is throttling", "let it cool", "36 min 00 s"):
        assert words in reported, words
    assert "$2.05" in reported, "what earlier attempts cost, and 24 minutes at $2 an hour"
    assert "$3.25" in reported, "and 36 minutes more"
    assert "$10.00" in reported
    live = json.loads(page.run_dir.live.read_text(encoding="utf-8"))
    assert live["step"] == 40
    assert "40 / 100" in live["parts"]["numbers"]
    assert f'data-live="{live["outline"]}"' in page.run_dir.report.read_text(encoding="utf-8")


def test_a_base_is_shown_by_its_name_not_its_path(prepared: Prepare, tmp_path: Path) -> None:
    made = prepared()
    path = tmp_path / "bases" / "photo.safetensors"
    base = replace(made.base, name=str(path), path=path, hub_id="")
    page = page_of(replace(made, base=base), tmp_path)
    page.write()
    reported = page.run_dir.report.read_text(encoding="utf-8")
    assert "photo.safetensors" in reported
    assert f"{tmp_path}/bases" not in reported


def test_images_that_are_held_out_count_among_those_with_captions(
    prepared: Prepare, tmp_path: Path
) -> None:
    page = page_of(prepared(validation_split="0.2"), tmp_path)
    page.write()
    reported = re.sub(r"<[^>]*>", "", page.run_dir.report.read_text(encoding="utf-8"))
    assert "20 images, 20 with a caption." in reported


def test_it_is_written_by_itself_while_events_come(prepared: Prepare, tmp_path: Path) -> None:
    with page_of(prepared(), tmp_path) as page:
        page.handle(step(7))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and last_step(page.run_dir.live) != 7:
            time.sleep(0.05)
        assert last_step(page.run_dir.live) == 7


def test_copies_of_it_are_sent_as_often_as_agreed(prepared: Prepare, tmp_path: Path) -> None:
    sent: list[tuple[str, int]] = []
    seconds = 0.0
    page = page_of(
        prepared(),
        tmp_path,
        now=lambda: seconds,
        send=lambda path, step: sent.append((path.read_text(encoding="utf-8"), step)),
    )
    for number in range(1, 41):
        seconds += 20
        page.handle(step(number))
        page.send_if_due()
    assert [number for _, number in sent] == [15, 30], "every five minutes"
    assert "15 / 100" in sent[0][0]
    assert len(list((page.run_dir.path / "page").iterdir())) == 2


def test_the_page_of_a_run_that_failed_is_sent_before_it_ends(
    prepared: Prepare, tmp_path: Path
) -> None:
    sent: list[str] = []
    error = TrainingError("the loss is NaN", fix="a lower rate")
    page = page_of(
        prepared(), tmp_path, send=lambda path, step: sent.append(path.read_text(encoding="utf-8"))
    )
    with page:
        page.handle(step(40))
        page.write_ending(error)
    assert len(sent) == 1
    assert "Failed" in sent[0]
    assert "a lower rate" in sent[0]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Stopped("stopped by a signal"), "Stopped; the state is saved"),
        (BudgetReached("ten dollars are spent"), "Budget or deadline reached"),
        (DeliveryError("the bucket is gone"), "Trained, not delivered"),
        (TrainingError("the loss is NaN", fix="a lower rate"), "Failed"),
        (KeyboardInterrupt(), "Stopped"),
        (RuntimeError("a bug of ours"), "Failed"),
    ],
)
def test_every_ending_is_on_the_page(
    prepared: Prepare, tmp_path: Path, error: BaseException, says: str
) -> None:
    page = page_of(prepared(language="en"), tmp_path)
    end(page, step(40), error)
    reported = page.run_dir.report.read_text(encoding="utf-8")
    assert says in reported
    assert "data-live" not in reported
    for problem in error.problems if isinstance(error, TennerError) else ():
        assert problem.text in reported
        assert problem.fix in reported


def test_no_secret_reaches_the_page(prepared: Prepare, tmp_path: Path) -> None:
    value = "s3cr3t-" + "value" * 3
    shaped = "hf_" + "A1b2C3d4" * 4
    secrets = Secrets(values={"WANDB_API_KEY": value})
    page = page_of(prepared(training_comment=value, trigger=shaped), tmp_path, secrets=secrets)
    problem = Problem(text=f"401 for {value}", fix=f"not {shaped}")
    end(page, Warned(text=f"retrying with {value}"), DeliveryError(problems=[problem]))
    for path in (page.run_dir.report, page.run_dir.live):
        reported = path.read_text(encoding="utf-8")
        assert value not in reported
        assert shaped not in reported


def test_a_page_that_cannot_be_written_is_a_warning_once(prepared: Prepare, tmp_path: Path) -> None:
    text: list[Event] = []
    run_dir = RunDir(tmp_path / "run").create()
    run_dir.report.mkdir()
    page = LivePage(prepared=prepared(), run_dir=run_dir, emit=text.append, budget=FREE)
    page.write()
    page.write("trained")
    assert [type(event) for event in text] == [Warned]


def test_a_step_that_is_trained_again_counts_once_by_its_last_word(tmp_path: Path) -> None:
    end = EpochEnd(epoch=1, num_epochs=4, loss_avg=0.1)
    log = tmp_path / "events.jsonl"
    with EventLog(log) as out:
        for event in [*(step(number) for number in range(1, 11)), end]:
            out.append(event)
    with EventLog(log) as out:  # an attempt that began at the state of step 8
        for event in [step(9, loss=0.2), step(10, loss=0.2), end, step(11)]:
            out.append(event)
    curve = History.of_log(read_event_lines(log)).curve()
    assert list(curve.steps) == list(range(1, 12))
    assert list(curve.losses[7:]) == [0.1, 0.2, 0.2, 0.1]
    assert len(curve.learning_rates["unet"]) == 11
    assert list(curve.epoch_ends) == [10]


def test_a_card_without_a_price_is_reckoned_by_the_price_book(
    prepared: Prepare, tmp_path: Path
) -> None:
    made = prepared()
    on_card = replace(made, plan=replace(made.plan, gpu="NVIDIA GeForce RTX 4090"))
    page = page_of(on_card, tmp_path, now=lambda: 3600.0, started=0.0)
    page.write()
    assert "the middle of" in page.run_dir.report.read_text(encoding="utf-8")


@pytest.mark.long
def test_a_real_run_is_on_its_page_while_it_trains_and_after_a_signal(tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TENNER_")}
    words = [f"--{key}={value}" for key, value in JOB.items()]
    words += ["--max_train_steps=100000", "--output_name=long", "--no_samples"]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenner", "train", *words],
            cwd=tmp_path,
            env={**environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
        live = tmp_path / "output" / "long" / "live.json"
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and process.poll() is None:
            if last_step(live) > 2:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        log.seek(0)
        assert code == 143, log.read()
    reported = live.with_name("report.html").read_text(encoding="utf-8")
    assert "Stopped; the state is saved" in reported
    assert last_step(live) > 2
