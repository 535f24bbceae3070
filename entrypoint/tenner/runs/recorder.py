"""Records what an engine saves: checked, written into the ledger, and queued for upload."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tenner.core.checksums import hash_file
from tenner.core.errors import Problem
from tenner.core.events import Checkpoint, Event, Failed, StateSaved, Warned
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.core.weights import inspect_weights
from tenner.runs.ledger import Finished, Ledger, LedgerBook, SavedFile
from tenner.runs.uploader import Uploader
from tenner.supervision.guards import Verdict
from tenner.supervision.states import states, step_of

NOTE_EVERY_SECONDS = 60.0
"""The time and cost of a killed attempt are known up to its last note."""


@dataclass(kw_only=True)
class SaveRecorder:
    """A guard that records saved files. `cost_usd` returns the price of an attempt's seconds; None
    where it is not known."""

    run_dir: RunDir
    book: LedgerBook
    uploader: Uploader
    started: float
    cost_usd: Callable[[float], float | None]
    now: Callable[[], float] = time.monotonic
    _noted_at: float = 0.0
    _has_warned: bool = False

    def handle(self, event: Event | None) -> Verdict | None:
        match event:
            case Checkpoint():
                return self._checkpoint(event)
            case StateSaved():
                return self._state(event)
            case _:
                return None

    def check(self) -> Verdict | None:
        if self.now() - max(self._noted_at, self.started) >= NOTE_EVERY_SECONDS:
            return self.note()
        return None

    def note(self, ending: str = "") -> Verdict | None:
        """Record the time and cost of this attempt until now."""
        self._noted_at = self.now()
        seconds = round(self.now() - self.started, 1)
        changed = {"seconds": seconds, "cost_usd": self.cost_usd(seconds)}
        found = self._change(lambda ledger: ledger.in_this_attempt(**changed, ending=ending))
        self.uploader.note()
        return found

    def note_delivered(self, at: Sequence[str]) -> None:
        """Record the destinations that have the complete set."""
        self._change(lambda ledger: replace(ledger, delivered_to=tuple(at)))
        self.note(ending="delivered")

    def _checkpoint(self, event: Checkpoint) -> Verdict | None:
        path = Path(event.path)
        if path.stem == self.book.now.output_name and not event.final:
            return None  # the last step's own checkpoint: the final one replaces it
        paths = [path, *([Path(event.ema)] if event.ema else [])]
        files: list[SavedFile] = []
        for each in paths:
            saved = self._saved(each, event)
            if isinstance(saved, Verdict):
                return saved
            files.append(saved)
        average = files[1] if event.ema else None
        if event.final:
            folder = ""
            earlier = sum(attempt.seconds for attempt in self.book.now.attempts[:-1])
            seconds = round(earlier + self.now() - self.started, 1)
            done = Finished(file=files[0], seconds=seconds, ema=average)
            verdict = self._change(lambda ledger: ledger.ended_with(done))
        else:
            folder = "checkpoints/"
            verdict = self._change(lambda ledger: _with_checkpoints(ledger, files))
        for each in paths:
            self.uploader.take_checkpoint(each, f"{folder}{each.name}", event.step)
        return verdict

    def _saved(self, path: Path, event: Checkpoint) -> SavedFile | Verdict:
        """A checkpoint's file, checked and hashed; a verdict where its weights are not usable."""
        try:
            found = inspect_weights(path)
            if isinstance(found, Problem):
                self._rename_bad_states()
                return _unusable(msg("the weights of step {step}", step=event.step), found)
            size, sha256 = hash_file(path)
        except OSError as error:
            text = msg(
                "{path} cannot be read: {strerror}", path=path, strerror=error.strerror or error
            )
            return Verdict(event=Warned(text=text))
        return SavedFile(
            name=path.name, step=event.step, epoch=event.epoch, size=size, sha256=sha256
        )

    def _state(self, event: StateSaved) -> Verdict | None:
        weights = Path(event.path) / "model.safetensors"
        if weights.is_file() and isinstance(found := inspect_weights(weights), Problem):
            Path(event.path).rename(Path(event.path).with_name(f"not-finite-{event.step:08d}"))
            return _unusable(msg("the state of step {step}", step=event.step), found)
        verdict = self._change(lambda ledger: ledger.with_state(event.step)) or self.note()
        try:
            self.uploader.take_state(Path(event.path), event.step)
        except OSError as error:
            text = msg(
                "the state of step {step} is not sent: {strerror}",
                step=event.step,
                strerror=error.strerror or error,
            )
            return Verdict(event=Warned(text=text))
        return verdict

    def _rename_bad_states(self) -> None:
        """Rename states that were saved after the last usable weights: they have the bad ones."""
        good = max((file.step for file in self.book.now.checkpoints), default=0)
        for state in states(self.run_dir):
            step = step_of(state)
            if step > good:
                state.rename(state.with_name(f"not-finite-{step:08d}"))

    def _change(self, how: Callable[[Ledger], Ledger]) -> Verdict | None:
        """Change the ledger; warn once where it cannot be written."""
        try:
            self.book.change(how)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                text = msg(
                    "the ledger cannot be written: {strerror}", strerror=error.strerror or error
                )
                return Verdict(event=Warned(text=text, fix=msg("free space on the disk")))
        return None


def _with_checkpoints(ledger: Ledger, files: Sequence[SavedFile]) -> Ledger:
    for each in files:
        ledger = ledger.with_checkpoint(each)
    return ledger


def _unusable(what: str, problem: Problem) -> Verdict:
    """End the engine: weights that are not finite stay so, and the file is not sent."""
    text = msg("{what} cannot be used: {text}", what=what, text=problem.text)
    return Verdict(event=Failed(kind="nan", text=text, fix=problem.fix), end="now", reason="nan")
