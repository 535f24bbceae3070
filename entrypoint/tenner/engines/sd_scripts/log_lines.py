"""sd-scripts' output as tenner's events: what each line means, and when a file is really whole.

A reader is stateful, for three reasons: messages wrap; a bar first shows a new step with the old
loss; and `saving …` is printed before the file is whole, so a checkpoint is only reported once a
later line shows that the trainer continued. Further events of a line are returned for empty lines.
"""

import math
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

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
from tenner.core.messages import msg
from tenner.engines.sd_scripts.failures import failure_of_exception, known_failure
from tenner.engines.sd_scripts.log_text import Bar, Continuation, Record, english, pieces
from tenner.engines.sd_scripts.resume import Attempt

LearningRates = Callable[[int], Mapping[str, float]]

NAN_STEPS = 20
"""Steps without a finite loss after which a run counts as dead. sd-scripts shows a running mean,
which stays NaN after one NaN; in fp16 its gradient scaler may have skipped that step."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What an attempt of a run writes, and how its numbers read."""

    attempt: Attempt
    output_dir: str
    output_name: str
    images_per_step: int = 1
    gradient_accumulation_steps: int = 1
    learning_rates: LearningRates | None = None


_RANK = re.compile(r"^\[rank\d+\]: ?")
"""What torch puts before each line of a traceback where several processes train."""
_PYTHON_WARNING = re.compile(r"\S+\.py:\d+: \w*Warning: ")


class LogReader:
    """Reads the lines of one attempt in order. A carriage return must end a line too."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._events: deque[Event] = deque()
        self._record: Record | None = None
        self._steps = _StepBar(output)
        self._saving: Checkpoint | None = None
        self._saving_state: StateSaved | None = None
        self._final: Checkpoint | None = None
        self._caching = ""
        self._cached_tenths = -1
        self._batches_per_epoch = 0
        self._nan_latents = 0
        self._in_traceback = False
        self._failed = False
        self._why_follows = False
        self._warned: set[str] = set()
        self._is_source_next = False

    def read(self, line: str) -> Event | None:
        """The event of `line`, or None. An empty line gives the next event of earlier lines."""
        for piece in pieces(line):
            if isinstance(piece, Continuation) and self._record:
                text = f"{self._record.text} {piece.text}".strip()
                self._record = Record(level=self._record.level, text=text)
                continue
            self._close_record()
            if isinstance(piece, Bar):
                self._bar(piece)
            elif isinstance(piece, Record):
                if piece.level != "WARNING":  # some are reported while a file is being written
                    self._continues()
                self._open_record(piece)
            else:
                self._plain(piece.text)
        return self._events.popleft() if self._events else None

    # Bars

    def _bar(self, bar: Bar) -> None:
        if bar.title != "steps":
            self._cache_bar(bar)
            return
        is_new = self._steps.is_new(bar)
        if is_new:
            self._continues()
        for event in self._steps.read(bar):
            self._emit(event)
            if isinstance(event, Step):
                self._end_epoch(event.step, event.loss_avg)
        if self._final and not self._saving and not is_new:
            self._events.append(Done(path=self._final.path, step=self._final.step))
            self._final = None

    def _cache_bar(self, bar: Bar) -> None:
        tenths = bar.done * 10 // bar.total if bar.total else 0
        if self._caching and not bar.title and tenths > self._cached_tenths:
            self._cached_tenths = tenths
            self._events.append(Phase(name=self._caching, done=bar.done, total=bar.total))

    # Log records

    def _open_record(self, record: Record) -> None:
        if record.level in ("ERROR", "CRITICAL") and (failed := known_failure(record.text)):
            self._fail(failed)
            return
        text = record.text
        if text.startswith("saving state at epoch "):
            step = self._output.attempt.step_at_epoch_end(int(text.split()[4]))
            self._state_begins(f"-{int(text.split()[4]):06d}-state", step)
        elif text.startswith("saving state at step "):
            step = self._output.attempt.absolute_step(int(text.split()[4]))
            self._state_begins(f"-step{int(text.split()[4]):08d}-state", step)
        elif text.startswith("saving last state"):
            self._state_begins("-state", self._output.attempt.num_steps)
        elif text.startswith("Random states saved in") and self._saving_state:
            self._events.append(self._saving_state)
            self._saving_state = None
        for start, name in PHASES.items():
            if text.startswith(start):
                self._phase(name)
        self._record = record

    def _close_record(self) -> None:
        """Emit a warning once all its lines are there."""
        record, self._record = self._record, None
        if record is None or record.level not in ("WARNING", "ERROR", "CRITICAL"):
            return
        text = english(record.text)
        if not text or text.startswith(_NO_NEWS) or set(text) == {"="}:
            return
        fix = next((fix for start, fix in _FIXES.items() if start in text), "")
        self._emit(Warned(text=text, fix=fix))

    def _phase(self, name: str) -> None:
        self._caching = name if name.startswith("caching") else ""
        self._cached_tenths = -1
        if not (name == "dataset" and "dataset" in self._warned):
            self._warned.add(name)
            self._events.append(Phase(name=name))

    # Printed lines

    def _plain(self, text: str) -> None:
        text = _RANK.sub("", text)
        if self._is_of_python_warning(text):
            return
        if text.startswith("Traceback (most recent call last)"):
            self._in_traceback = True
            self._saving = self._saving_state = None
            return
        # a traceback shows source lines too, which may hold the very words of an error
        failed = failure_of_exception(text) if self._in_traceback else known_failure(text)
        if failed is None and ": error: " in text and text.split(":")[0].endswith(".py"):
            failed = Failed(
                kind="other", text=text, fix=msg("report this: an option was passed wrongly")
            )
        if failed:
            self._in_traceback = False
            self._fail(failed)
            return
        if self._in_traceback:
            return
        self._continues()
        self._message(text)

    def _is_of_python_warning(self, text: str) -> bool:
        """Whether it is a warning of Python's own, or the source line that follows it: such are
        written while a file is being saved."""
        is_warning = _PYTHON_WARNING.match(text) is not None
        is_source = self._is_source_next and not text.startswith("saving checkpoint: ")
        self._is_source_next = is_warning
        return is_warning or is_source

    def _message(self, text: str) -> None:
        if text.startswith("saving checkpoint: "):
            self._checkpoint_begins(text.removeprefix("saving checkpoint: "))
        elif text.startswith("NaN found in latents"):
            self._nan_in_latents()
        elif text.startswith("running training"):
            self._phase("training")
        elif text.startswith("num batches per epoch"):
            self._batches_per_epoch = int(text.rsplit(":", 1)[1])
        elif text.startswith("total optimization steps"):
            self._compare_epoch()

    def _nan_in_latents(self) -> None:
        """One broken image is one thing; training on zeros step after step is another."""
        self._nan_latents += 1
        fix = msg("set no_half_vae = true; if it stays, an image is broken")
        if self._nan_latents == NAN_STEPS:
            text = msg(
                "the latents were not numbers {nan_steps} times, and replaced with zeros",
                nan_steps=NAN_STEPS,
            )
            self._emit(Failed(kind="nan", text=text, fix=fix))
        else:
            self._emit(
                Warned(text=msg("NaN in the latents of an image, replaced with zeros"), fix=fix)
            )

    def _compare_epoch(self) -> None:
        accumulation = self._output.gradient_accumulation_steps
        steps = math.ceil(self._batches_per_epoch / accumulation)
        planned = self._output.attempt.steps_per_epoch
        if steps != planned:
            text = msg(
                "an epoch has {steps} steps in sd-scripts, and {planned} in the plan",
                steps=steps,
                planned=planned,
            )
            self._emit(Warned(text=text, fix=msg("the run still ends at the planned step")))

    def _end_epoch(self, step: int, loss_average: float) -> None:
        attempt = self._output.attempt
        if step % attempt.steps_per_epoch == 0 or step >= attempt.num_steps:
            epoch = attempt.absolute_epoch(step)
            ended = EpochEnd(epoch=epoch, num_epochs=attempt.num_epochs, loss_avg=loss_average)
            self._events.append(ended)

    # Files

    def _checkpoint_begins(self, path: str) -> None:
        attempt = self._output.attempt
        stem = PurePosixPath(path.replace("\\", "/")).stem
        number = stem.removeprefix(self._output.output_name).removeprefix("-")
        if number.startswith("step"):
            step = attempt.absolute_step(int(number.removeprefix("step")))
        else:
            step = attempt.step_at_epoch_end(int(number)) if number else attempt.num_steps
        epoch = attempt.absolute_epoch(step)
        self._saving = Checkpoint(path=path, step=step, epoch=epoch, final=not number)

    def _state_begins(self, ending: str, step: int) -> None:
        path = f"{self._output.output_dir.rstrip('/')}/{self._output.output_name}{ending}"
        epoch = self._output.attempt.absolute_epoch(step)
        self._saving_state = StateSaved(path=path, step=step, epoch=epoch)

    def _continues(self) -> None:
        """The trainer does something else: the file that it was saving is whole."""
        if self._saving:
            self._events.append(self._saving)
            self._final = self._saving if self._saving.final else None
            self._saving = None

    # Reporting

    def _emit(self, event: Event) -> None:
        """Warnings are reported once each."""
        if isinstance(event, Failed):
            self._fail(event)
        elif not isinstance(event, Warned) or event.text not in self._warned:
            if isinstance(event, Warned):
                self._warned.add(event.text)
            self._events.append(event)

    def _fail(self, failed: Failed) -> None:
        """Report the first known cause; later failures are its consequences. Only NCCL reports a
        failure before its cause: an out-of-memory error some lines later replaces it."""
        if not self._failed or (self._why_follows and failed.kind == "oom"):
            self._failed = failed.kind != "other"
            self._why_follows = failed.kind == "host" and "nccl" in failed.text.lower()
            self._events.append(failed)


class _StepBar:
    """The bar of steps: which step it shows, and whether its loss is that step's yet.

    tqdm gets the step first and its loss after that, so the first line of a step may carry
    the loss of the step before. When gradients are accumulated the loss moves between steps too.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self.shown = 0
        self._warned = 0
        self._lines = 0
        self._last_text = ""
        self._nan_steps = 0
        self._waiting: Bar | None = None

    def is_new(self, bar: Bar) -> bool:
        return bar.done > self.shown

    def read(self, bar: Bar) -> list[Event]:
        text, events = bar.values.get("avr_loss", ""), list[Event]()
        if self.is_new(bar):
            if self._waiting:  # shown once only: its loss happened to read like the one before
                events += self._step(self._waiting)
            self.shown, self._lines = bar.done, 0
        if text and bar.done > self._warned:
            self._lines += 1
            self._waiting = bar
            if text != self._last_text or self._lines > 1:
                events += self._step(bar)
        self._last_text = text or self._last_text
        return events

    def _step(self, bar: Bar) -> list[Event]:
        self._warned, self._waiting = bar.done, None
        loss = float(bar.values["avr_loss"])
        if not math.isfinite(loss):
            return self._not_finite(bar)
        self._nan_steps = 0
        attempt = self._output.attempt
        step = attempt.absolute_step(bar.done)
        rates = self._output.learning_rates
        speed = self._output.images_per_step / bar.seconds_each if bar.seconds_each else 0.0
        return [
            Step(
                step=step,
                num_steps=attempt.num_steps,
                epoch=attempt.absolute_epoch(step),
                num_epochs=attempt.num_epochs,
                loss=loss,
                loss_avg=loss,
                lr=dict(rates(step)) if rates else {},
                images_per_second=round(speed, 3),
                seconds_per_step=round(bar.seconds_each, 4),
            )
        ]

    def _not_finite(self, bar: Bar) -> list[Event]:
        self._nan_steps += 1
        step = self._output.attempt.absolute_step(bar.done)
        fix = msg("a lower learning_rate, or mixed_precision = bf16 (or no) instead of fp16")
        if self._nan_steps == 1:
            return [
                Warned(text=msg("the loss is not a number from step {step} on", step=step), fix=fix)
            ]
        if self._nan_steps == NAN_STEPS:
            text = msg(
                "the loss was not a number for {nan_steps} steps, up to step {step}",
                nan_steps=NAN_STEPS,
                step=step,
            )
            return [Failed(kind="nan", text=text, fix=fix)]
        return []


PHASES = {
    "prepare images": "dataset",
    "loading model for process": "loading",
    "caching latents...": "caching latents",
    "move text encoder to gpu": "caching captions",
    "move text encoders to gpu": "caching captions",
    "move text encoders to cuda": "caching captions",
    "caching Text Encoder outputs": "caching captions",
    "generating sample images": "sampling",
}
"""Starts of messages that begin a phase, and its name: the same as the built-in trainer's."""

_NO_NEWS = (
    "no regularization images",
    "epoch is not incremented",
    "ignoring the following options because config file",
    "steps from the state is ignored because initial_step is specified",
    "recommend option",
    "Could not determine git commit",  # where git is not installed, as in the image
    "Failed to get git commit hash",
)
"""Warnings about what is normal here."""

_FIXES = {
    "No caption file found": "write a caption for each image, or name the folder 10_concept",
    "ignore subset with image_dir": "put images in it, or take the folder away",
    "learning rate is too low": "set learning_rate = 1: this optimizer finds the rate itself",
    "zero_terminal_snr is enabled": "set v_parameterization = true, or leave zero_terminal_snr out",
    "No prompt file": "check sample_prompts",
}
