"""The sd-scripts engine against a trainer that ends in every way the real one does."""

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest

from tenner.engines.sd_scripts.arguments import Paths
from tenner.engines.sd_scripts.engine import Job
from tenner.engines.sd_scripts.find import Trainer
from tenner.engines.sd_scripts.run import BROKEN_STATE_EXIT, SdScriptsRun
from tenner.errors import Stopped, TrainingError
from tenner.events import Done, Event, Failed, Step, Warned
from tenner.running.run_dir import RunDir
from tenner.supervision.guards import Guard, Verdict
from tenner.supervision.supervise import StopRequest
from tenner.supervision.training import Engine, Trained, states, train

STAND_IN = Path(__file__).parent / "stand_in_trainer.py"


class Run:
    """One run directory, and lives in it."""

    def __init__(self, tmp_path: Path) -> None:
        scripts = tmp_path / "sd-scripts"
        scripts.mkdir()
        shutil.copy(STAND_IN, scripts / "train_network.py")
        self.place = RunDir(tmp_path / "run").create()
        self.trainer = Trainer(directory=scripts, python=Path(sys.executable))
        self.events: list[Event] = []

    def live(
        self,
        stop: StopRequest | None = None,
        batch: int = 2,
        every: int = 4,
        guards: tuple[Guard, ...] = (),
        **env: str,
    ) -> Trained:
        job = Job(
            trainer=self.trainer,
            family="sd1",
            paths=Paths(
                base_model=Path("/models/base"),
                train_data_dir=Path("/data"),
                output_dir=self.place.path,
                output_name="lora",
                logging_dir=self.place.path / "logs",
            ),
            options={"batch_size": batch, "save_every_n_steps": every, "lr_scheduler": "cosine"},
            num_steps=13,
            steps_per_epoch=10,
        )
        run = SdScriptsRun(job=job, place=self.place)
        engine = Engine(
            name="sd-scripts",
            command=run.command,
            read=run.read,
            broken_state_exit=BROKEN_STATE_EXIT,
        )
        return train(
            engine,
            self.place,
            environ={**os.environ, **env},
            stop=stop or StopRequest(),
            grace_seconds=1,
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
    trained = run.live()
    assert (trained.step, trained.finished) == (13, True)
    assert trained.weights.path == run.place.checkpoints / "lora.safetensors"
    assert run.steps == list(range(1, 14))


def test_killed_twice_it_is_still_one_run(run: Run) -> None:
    for steps in ("6", "5"):
        with pytest.raises(TrainingError):
            run.live(STAND_IN="killed", STAND_IN_STEPS=steps)
    trained = run.live()
    assert (trained.step, trained.resumed_from) == (13, 8)
    assert set(run.steps) == set(range(1, 14))
    assert sorted(each.name for each in run.place.checkpoints.iterdir()) == [
        "lora-step00000004.safetensors",
        "lora-step00000008.safetensors",
        "lora-step00000012.safetensors",
        "lora.safetensors",
    ]


def test_a_broken_newest_state_is_left_for_the_one_before(run: Run) -> None:
    with pytest.raises(TrainingError):
        run.live(STAND_IN="killed", STAND_IN_STEPS="9")
    newest = states(run.place)[0]
    (newest / "optimizer.bin").write_bytes(b"cut")
    trained = run.live()
    assert (trained.step, trained.resumed_from) == (13, 4)
    assert any(isinstance(event, Warned) and "broken" in event.text for event in run.events)


def test_exit_0_without_a_file_is_no_success(run: Run) -> None:
    with pytest.raises(TrainingError, match="without its final weights"):
        run.live(every=50, STAND_IN="no_file")


def test_exit_0_without_the_final_file_is_not_taken_for_the_end(run: Run) -> None:
    with pytest.raises(TrainingError, match="without its final weights"):
        run.live(STAND_IN="no_file")


def test_a_budget_that_is_reached_after_the_last_save_is_no_failure(run: Run) -> None:
    class Budget:
        def heard(self, event: Event | None) -> Verdict | None:
            return Verdict(end="ask", reason="budget") if isinstance(event, Done) else None

        def look(self) -> None:
            return None

    trained = run.live(guards=(Budget(),), STAND_IN_LINGERS="30")
    assert (trained.step, trained.finished) == (13, True)


def test_weights_that_are_not_finite_are_no_success(run: Run) -> None:
    with pytest.raises(TrainingError):
        run.live(STAND_IN="nan")


def test_out_of_memory_is_told_and_a_batch_that_fits_goes_through(run: Run) -> None:
    with pytest.raises(TrainingError, match="CUDA out of memory"):
        run.live(batch=4, STAND_IN="oom", STAND_IN_FITS="2")
    [failed] = [event for event in run.events if isinstance(event, Failed)]
    assert failed.kind == "oom"
    assert run.live(batch=2, STAND_IN="oom", STAND_IN_FITS="2").step == 13


def test_one_that_hangs_is_ended_when_asked(run: Run) -> None:
    stop = StopRequest()

    def ask() -> None:
        stop.signal = signal.SIGTERM
        stop.asked_at = 0.0
        for pid in stop.pids:
            os.killpg(pid, signal.SIGTERM)

    timer = threading.Timer(2.0, ask)
    timer.start()
    try:
        with pytest.raises(Stopped):
            run.live(stop=stop, STAND_IN="hang")
    finally:
        timer.cancel()
    assert run.steps[-1] == 5
