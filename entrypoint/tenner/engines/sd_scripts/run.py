"""One run with sd-scripts, attempt after attempt: its commands, its events and its files."""

import contextlib
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tenner.core.command import Command
from tenner.core.events import Checkpoint, Done, Event, Phase, StateSaved, Warned
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.engines.sd_scripts.engine import Job, command, learning_rates
from tenner.engines.sd_scripts.files import (
    UnusableState,
    adopt_checkpoint,
    adopt_state,
    state_problem,
    state_step,
)
from tenner.engines.sd_scripts.log_lines import LogReader, Output
from tenner.engines.sd_scripts.resume import checkpoint_name

BROKEN_STATE_EXIT = 24
"""What the command of an attempt ends with where its state is broken; the trainer itself ends with
1 for everything."""


@dataclass(kw_only=True)
class SdScriptsRun:
    """`command` starts an attempt from a state (None: from the beginning); `read` follows it."""

    job: Job
    run_dir: RunDir
    _reader: LogReader | None = None
    _attempt_dir: Path | None = None
    _final: Path | None = None
    _last_state: StateSaved | None = None

    def command(self, state: Path | None) -> Command:
        """The program of the attempt that resumes from `state`.

        Where the state is broken, a program that prints why and ends with `BROKEN_STATE_EXIT`.
        """
        problem = state_problem(state) if state else None
        if state and problem:
            text = msg("the state {name} is broken: {problem}", name=state.name, problem=problem)
            code = f"import sys; print(sys.argv[1]); raise SystemExit({BROKEN_STATE_EXIT})"
            return Command(argv=(sys.executable, "-c", code, text))
        first_step = state_step(state) if state else 0
        attempt = self.job.attempt(first_step)
        self._attempt_dir = self.run_dir.path / "sd-scripts" / f"from-step-{first_step:08d}"
        shutil.rmtree(
            self._attempt_dir, ignore_errors=True
        )  # unfinished files of an attempt that was cut
        self._attempt_dir.mkdir(parents=True)
        paths = replace(self.job.paths, output_dir=self._attempt_dir)
        job = replace(self.job, paths=paths)
        self._reader = LogReader(self._output(job, first_step))
        return command(job, attempt, state=state)

    def read(self, line: str) -> Event | None:
        """The event of a line. A file that is whole by it is moved into the run's folders first."""
        event = self._reader.read(line) if self._reader else None
        try:
            match event:
                case StateSaved():
                    return self._adopt_readable_state(event)
                case Checkpoint():
                    return self._adopt_checkpoint(event)
                case Done():
                    return replace(event, path=str(self._final or event.path))
                case Phase(name="sampling"):
                    return replace(event, detail=str(self._samples()))
                case _:
                    return event
        except OSError as error:
            name = error.filename or getattr(event, "path", "a file")
            text = msg(
                "{name} could not be moved into the run: {strerror}",
                name=name,
                strerror=error.strerror,
            )
            return Warned(text=text, fix=msg("free disk space; the trainer continues"))

    def _output(self, job: Job, first_step: int) -> Output:
        accumulation = job.options.gradient_accumulation_steps
        return Output(
            attempt=job.attempt(first_step),
            output_dir=str(job.paths.output_dir),
            output_name=job.paths.output_name,
            images_per_step=job.options.train_batch_size * accumulation * job.num_processes,
            gradient_accumulation_steps=accumulation,
            learning_rates=learning_rates(job),
        )

    def _adopt_readable_state(self, event: StateSaved) -> Event | None:
        try:
            return self._adopt_state(event)
        except UnusableState as error:
            return Warned(
                text=msg(
                    "the state of step {step} cannot be resumed from: {error}; the one"
                    " before it is used instead",
                    step=event.step,
                    error=error,
                ),
                fix=msg("check the disk; the trainer continues"),
            )

    def _adopt_state(self, event: StateSaved) -> StateSaved | None:
        """The final state is adopted after the final weights: without them nobody could resume."""
        if event.step >= self.job.num_steps and self._final is None:
            self._last_state = event
            return None
        states = self.run_dir.state
        adopted = adopt_state(Path(event.path), states, step=event.step, epoch=event.epoch)
        return replace(event, path=str(adopted))

    def _adopt_checkpoint(self, event: Checkpoint) -> Checkpoint:
        name = checkpoint_name(
            self.job.paths.output_name,
            step=event.step,
            attempt=self.job.attempt(),
            by_epoch=bool(self.job.options.save_every_n_epochs),
        )
        adopted = adopt_checkpoint(Path(event.path), self.run_dir.checkpoints / name)
        if event.final:
            self._final = adopted
            if self._last_state:
                with contextlib.suppress(UnusableState):  # the final weights are there
                    self._adopt_state(self._last_state)
        return replace(event, path=str(adopted))

    def _samples(self) -> Path:
        return (self._attempt_dir or self.run_dir.path) / "sample"
