"""Ends a run early by its loss curve if `stop_when` is set, in the way of `touch RUN/STOP`.

The curve is read at the end of each epoch, and only the same result at two ends in a
row counts: one of many readings would sooner or later give it by chance.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tenner.core.events import EpochEnd, Event, Warned
from tenner.core.files import write_atomically
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.report.curve import Reading, read_curve
from tenner.report.facts import LossCurve

IN_A_ROW = 2


@dataclass(kw_only=True)
class StopWhen:
    """Handles the run's events; `condition` is the reading that ends the run, `never` for none."""

    condition: str
    run_dir: RunDir
    curve: Callable[[], LossCurve]
    emit: Callable[[Event], None]
    _seen: int = 0
    _requested: bool = False

    def handle(self, event: Event) -> None:
        if self.condition == "never" or self._requested or not isinstance(event, EpochEnd):
            return
        if event.epoch >= event.num_epochs - 1:
            return  # it ends then anyway
        curve = self.curve()
        reading: Reading = read_curve(curve.steps, curve.losses).reading
        self._seen = self._seen + 1 if reading == self.condition else 0
        if self._seen < IN_A_ROW:
            return
        self._requested = True
        seen = {"settled": msg("fell and then settled"), "rising": msg("rises again")}[
            self.condition
        ]
        try:
            write_atomically(self.run_dir.stop_file, "")
        except OSError as error:
            why = error.strerror or error
            self.emit(
                Warned(
                    text=msg(
                        "the loss {seen}, but the run cannot be stopped: {why}", seen=seen, why=why
                    )
                )
            )
            return
        text = msg(
            "the loss {seen}: the run ends after the next epoch (stop_when = {condition})",
            seen=seen,
            condition=self.condition,
        )
        self.emit(Warned(text=text, level="note"))
