"""The TensorBoard log of a training, under the names that sd-scripts gives its curves."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

import contextlib
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tenner.core.events import EpochEnd, Event, Step, Validated, Warned
from tenner.core.messages import msg
from tenner.engines.native.progress import EventWriter


@contextlib.contextmanager
def logged(folder: str | None, emit: EventWriter, *, first_step: int) -> Generator[None]:
    """Write the events of `emit` to a TensorBoard log in `folder` too, inside of this context.

    Without TensorBoard, or where the folder cannot be written, an event warns of it and there is no
    log.
    """
    if folder is None or emit.is_silent:
        yield
        return
    try:
        tensorboard = TensorBoard(Path(folder), first_step=first_step)
    except (ImportError, OSError) as error:
        emit(
            Warned(
                text=msg("no TensorBoard log: {error}", error=error),
                fix=msg("pip install tensorboard"),
            )
        )
        yield
        return
    emit.listeners.append(tensorboard.handle)
    try:
        yield
    finally:
        emit.listeners.remove(tensorboard.handle)
        tensorboard.close()


class TensorBoard:
    """Writes the events of steps and epochs; a thread of TensorBoard flushes them every 20 s.

    Raises ImportError where TensorBoard is not installed. Steps from `first_step` on replace what
    an earlier attempt of the run wrote of them.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step, flush_secs=20)
        self._step = first_step - 1

    def handle(self, event: Event) -> None:
        match event:
            case Step():
                self._step = event.step
                self._add("loss/current", event.loss)
                self._add("loss/average", event.loss_avg)
                for name, rate in event.lr.items():
                    self._add(f"lr/{name}", rate)
            case EpochEnd():
                self._writer.add_scalar("loss/epoch_average", event.loss_avg, event.epoch)
            case Validated():
                self._writer.add_scalar("loss/validation", event.loss, event.step)
            case _:
                pass

    def close(self) -> None:
        self._writer.close()

    def _add(self, name: str, value: float) -> None:
        if math.isfinite(value):
            self._writer.add_scalar(name, value, self._step)
