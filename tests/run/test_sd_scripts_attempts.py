"""The sd-scripts engine against a trainer that ends in every way the real one does."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tenner.core.errors import DatasetError, Stopped, TrainingError
from tenner.core.events import Done, Event, Failed, Phase, StateSaved, Step, Warned
from tenner.core.run_dir import RunDir
from tenner.engines.sd_scripts.arguments import Paths
from tenner.engines.sd_scripts.engine import Job
from tenner.engines.sd_scripts.find import Trainer
from tenner.engines.sd_scripts.run import BROKEN_STATE_EXIT, SdScriptsRun
from tenner.supervision.guards import Guard, Verdict
from tenner.supervision.states import states
from tenner.supervision.supervise import Control, StopRequest
from tenner.supervision.training import Engine, Trained, train
from tests.train_options import train_options

STAND_IN = Path(__file__).parent / "stand_in_trainer.py"


class Run:
    """One run directory, and attempts in it."""

    def __init__(self, tmp_path: Path) -> None:
        scripts = tmp_path / "sd-scripts"
        scripts.mkdir()
        shutil.copy(STAND_IN, scripts / "train_network.py")
        self.run_dir = RunDir(tmp_path / "run").create()
        self.trainer = Trainer(directory=scripts, python=Path(sys.executable))
        self.events: list[Event] = []

    def attempt(
        self,
        stop: StopRequest | None = None,
        batch: int = 2,
        every: int = 4,
        guards: tuple[Guard, ...] = (),
        state_minutes: float = 5.0,
        grace_seconds: float = 1,
        **env: str,
    ) -> Trained:
        job = Job(
            trainer=self.trainer,
            family="sd1",
            paths=Paths(
                base_model=Path("/models/base"),
                train_data_dir=Path("/data"),
                output_dir=self.run_dir.path,
                output_name="lora",
                logging_dir=self.run_dir.path / "logs",
            ),
            options=train_options(
                train_batch_size=batch, save_every_n_steps=every, lr_scheduler="cosine"
            ),
            num_steps=13,
            steps_per_epoch=10,
            state_minutes=state_minutes,
        )
        run = SdScriptsRun(job=job, run_dir=self.run_dir)
        engine = Engine(
            name="sd-scripts",
            command=run.command,
            read=run.read,
            broken_state_exit=BROKEN_STATE_EXIT,
        )
        return train(
            engine,
            self.run_dir,
            control=Control(
                environ={**os.environ, **env},
                stop=stop or StopRequest(),
                grace_seconds=grace_seconds,
            ),
            on_event=self.events.append,
            guards=guards,
        )

    @property
    def steps(self) -> list[int]:
        return [event.step for event in self.events if isinstance(event, Step)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_run_that_succeeds(run: Run) -> None:
    trained = run.attempt()
    assert (trained.step, trained.finished) == (13, True)
    assert trained.weights.path == run.run_dir.checkpoints / "lora.safetensors"
    assert run.steps == list(range(1, 14))


def test_killed_twice_it_is_still_one_run(run: Run) -> None:
    for steps in ("6", "5"):
        with pytest.raises(TrainingError):
            run.attempt(STAND_IN="crashed", STAND_IN_STEPS=steps)
    trained = run.attempt()
    assert (trained.step, trained.resumed_from) == (13, 8)
    assert set(run.steps) == set(range(1, 14))
    assert sorted(each.name for each in run.run_dir.checkpoints.iterdir()) == [
        "lora-step00000004.safetensors",
        "lora-step00000008.safetensors",
        "lora-step00000012.safetensors",
        "lora.safetensors",
    ]


def test_a_broken_newest_state_is_left_for_the_one_before(run: Run) -> None:
    with pytest.raises(TrainingError):
        run.attempt(STAND_IN="crashed", STAND_IN_STEPS="9")
    newest = states(run.run_dir)[0]
    (newest / "optimizer.bin").write_bytes(b"cut")
    trained = run.attempt()
    assert (trained.step, trained.resumed_from) == (13, 4)
    assert any(isinstance(event, Warned) and "broken" in event.text for event in run.events)


def test_a_state_that_was_written_cut_is_not_the_one_resumed_from(run: Run) -> None:
    with pytest.raises(TrainingError):
        run.attempt(STAND_IN="crashed", STAND_IN_STEPS="9", STAND_IN_CUT_STATE="8")
    assert [each.name for each in states(run.run_dir)] == ["step-00000004"]
    (warned,) = [event for event in run.events if isinstance(event, Warned)]
    assert "the state of step 8 cannot be resumed from: optimizer.bin is damaged" in warned.text
    assert not [e for e in run.events if isinstance(e, StateSaved) and e.step == 8]
    trained = run.attempt()
    assert (trained.step, trained.resumed_from) == (13, 4)


def test_exit_0_without_a_file_is_no_success(run: Run) -> None:
    with pytest.raises(TrainingError, match="without its final weights"):
        run.attempt(every=50, STAND_IN="no_file")


def test_exit_0_without_the_final_file_is_not_taken_for_the_end(run: Run) -> None:
    with pytest.raises(TrainingError, match="without its final weights"):
        run.attempt(STAND_IN="no_file")


def test_a_budget_that_is_reached_after_the_last_save_is_no_failure(run: Run) -> None:
    class Budget:
        def handle(self, event: Event | None) -> Verdict | None:
            return Verdict(end="save", reason="budget") if isinstance(event, Done) else None

        def check(self) -> None:
            return None

    trained = run.attempt(guards=(Budget(),), STAND_IN_LINGERS="30")
    assert (trained.step, trained.finished) == (13, True)


def test_weights_that_are_not_finite_are_no_success(run: Run) -> None:
    with pytest.raises(TrainingError):
        run.attempt(STAND_IN="nan")


def test_out_of_memory_is_reported_and_a_batch_that_fits_goes_through(run: Run) -> None:
    with pytest.raises(TrainingError, match="CUDA out of memory"):
        run.attempt(batch=4, STAND_IN="oom", STAND_IN_FITS="2")
    [failed] = [event for event in run.events if isinstance(event, Failed)]
    assert failed.kind == "oom"
    assert run.attempt(batch=2, STAND_IN="oom", STAND_IN_FITS="2").step == 13


def ask_to_end(stop: StopRequest) -> None:
    """What a SIGTERM to the program does."""
    stop.signal, stop.requested_at = signal.SIGTERM, time.monotonic()
    for pid in stop.pids:
        os.killpg(pid, signal.SIGTERM)


class AtStep:
    """Requests the run's end by a signal at the first step."""

    def __init__(self, step: int, stop: StopRequest) -> None:
        self.step, self.stop = step, stop

    def handle(self, event: Event | None) -> None:
        if isinstance(event, Step) and event.step >= self.step and self.stop.signal is None:
            ask_to_end(self.stop)

    def check(self) -> None:
        return None


def test_a_signal_saves_the_step_and_nothing_is_trained_twice(run: Run) -> None:
    stop = StopRequest()
    guards = (AtStep(3, stop),)
    with pytest.raises(Stopped) as stopped:
        run.attempt(stop=stop, every=50, guards=guards, grace_seconds=60, STAND_IN_SECONDS="0.3")
    saved = run.steps[-1]
    assert saved >= 3
    assert [each.name for each in states(run.run_dir)] == [f"step-{saved:08d}"]
    assert f"resumes from the state of step {saved}" in stopped.value.problems[0].fix
    weights = run.run_dir.checkpoints / f"lora-step{saved:08d}.safetensors"
    assert weights.is_file()
    trained = run.attempt(every=50)
    assert (trained.step, trained.resumed_from) == (13, saved)
    assert run.steps == list(range(1, 14))


def test_a_kill_costs_no_more_than_the_time_between_states(run: Run) -> None:
    """States come by the clock, without checkpoints: each step takes longer than the interval."""
    quick = {"state_minutes": 0.001, "every": 50, "STAND_IN_SECONDS": "0.2"}
    with pytest.raises(TrainingError):
        run.attempt(STAND_IN="crashed", STAND_IN_STEPS="6", **quick)  # pyright: ignore
    assert states(run.run_dir)[0].name == "step-00000006"
    assert len(states(run.run_dir)) == 2, "older ones are dropped"
    assert not list(run.run_dir.checkpoints.iterdir())
    assert run.attempt(every=50).resumed_from == 6


def test_states_by_the_clock_wait_for_it(run: Run) -> None:
    run.attempt(every=50)
    assert [each.step for each in run.events if isinstance(each, StateSaved)] == []


def test_without_a_state_a_stopped_run_reports_it(run: Run) -> None:
    stop = StopRequest()

    class WhileLoading:
        def handle(self, event: Event | None) -> None:
            if isinstance(event, Phase) and stop.signal is None:
                ask_to_end(stop)

        def check(self) -> None:
            return None

    with pytest.raises(Stopped, match="before any state was saved") as stopped:
        run.attempt(stop=stop, guards=(WhileLoading(),), STAND_IN_SECONDS="5")
    assert "from the first step" in stopped.value.problems[0].fix


def test_no_images_for_the_trainer_is_a_fault_of_the_dataset(run: Run) -> None:
    with pytest.raises(DatasetError, match="found no images"):
        run.attempt(STAND_IN="no_data")


def test_one_that_hangs_is_ended_after_its_grace_time(run: Run) -> None:
    stop = StopRequest()
    with pytest.raises(Stopped, match="before any state was saved"):
        run.attempt(stop=stop, guards=(AtStep(4, stop),), every=50, STAND_IN="hang")
    assert run.steps[-1] == 5
