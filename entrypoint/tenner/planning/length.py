"""How long a run is, counted as sd-scripts counts."""

from dataclasses import dataclass

from tenner.core.messages import msg
from tenner.settings.model import Settings

_EPOCHS = 10  # the guide's
FEWEST_UPDATES = 300
"""About half of the 625 that the guide's job makes at its largest batch: 5,000 images by 8."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a run is, in optimizer steps. Epochs are counted from the whole dataset."""

    num_steps: int
    steps_per_epoch: int

    @property
    def num_epochs(self) -> int:
        return -(-self.num_steps // self.steps_per_epoch)


def run_length(settings: Settings, batches_per_epoch: int, accumulation: int) -> Length:
    """Optimizer steps as sd-scripts counts them: batches are dealt to processes and accumulated,
    and what is left over at the end of an epoch makes a step too."""
    per_step = accumulation * settings.num_processes
    per_epoch = max(1, -(-batches_per_epoch // per_step))
    epochs = settings.max_train_epochs or _EPOCHS
    return Length(
        num_steps=settings.max_train_steps or per_epoch * epochs, steps_per_epoch=per_epoch
    )


def length_reason(settings: Settings, length: Length) -> str:
    """Where the number of steps comes from, for the plan."""
    if settings.max_train_steps:
        return msg(
            "as set, about {num_epochs} epochs of {steps_per_epoch}",
            num_epochs=length.num_epochs,
            steps_per_epoch=length.steps_per_epoch,
        )
    epochs = settings.max_train_epochs or _EPOCHS
    return msg(
        "{epochs} epochs of {steps_per_epoch}",
        epochs=epochs,
        steps_per_epoch=length.steps_per_epoch,
    )
