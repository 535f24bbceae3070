"""The lines that people read of a run: one for a step, one for an event."""

from collections.abc import Mapping
from typing import Any

from tenner.core.errors import Level
from tenner.core.events import (
    Checkpoint,
    Drew,
    EpochEnd,
    Event,
    Failed,
    Phase,
    Sent,
    Step,
    Warned,
    WeightsMeasured,
)
from tenner.core.messages import msg
from tenner.core.network_parts import PART_NAMES

MARKS: dict[Level, str] = {"error": "error", "warning": "warning", "note": "note"}


def step_line(step: Step, *, price_per_hour: float | None, spent_seconds: float) -> str:
    """`step 120/400  epoch 3/10  loss 0.0812  4.1 img/s  1 m 40 s left  $0.02 of $0.07`"""
    return "  ".join(step_parts(step, price_per_hour=price_per_hour, spent_seconds=spent_seconds))


def step_parts(
    step: Step, *, price_per_hour: float | None, spent_seconds: float
) -> tuple[str, ...]:
    """How far the run is, how fast, and what it has cost of what it will cost."""
    left = (step.num_steps - step.step) * step.seconds_per_step
    parts = [
        f"step {step.step}/{step.num_steps}",
        f"epoch {step.epoch}/{step.num_epochs}",
        f"loss {step.loss_avg:.4f}",
        f"{step.images_per_second:.2g} img/s",
        f"{duration(left)} left",
    ]
    if price_per_hour:
        spent = spent_seconds / 3600 * price_per_hour
        parts.append(f"${spent:.2f} of ${spent + left / 3600 * price_per_hour:.2f}")
    return tuple(parts)


def duration(seconds: float) -> str:
    """`45 s`, `3 m 20 s`, `1 h 05 m`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return msg("{whole} s", whole=whole)
    if whole < 3600:
        return msg("{whole} m {whole2} s", whole=whole // 60, whole2=f"{whole % 60:02d}")
    return msg("{whole} h {whole2} m", whole=whole // 3600, whole2=f"{whole % 3600 // 60:02d}")


def event_line(event: Event) -> str | None:
    """The line of an event; None for events that only move a progress bar."""
    match event:
        case Phase(name=name, detail=detail, done=None):
            return f"{name}: {detail}" if detail else name
        case EpochEnd(epoch=epoch, num_epochs=num_epochs, loss_avg=loss):
            return f"epoch {epoch}/{num_epochs} ended, mean loss {loss:.4f}"
        case Checkpoint(path=path, step=step):
            return f"checkpoint at step {step}: {path}"
        case Drew(path=path, epoch=epoch):
            return f"samples of epoch {epoch}: {path}"
        case Sent(what=what, step=step, destination=destination):
            return f"{what} of step {step} is at {destination}"
        case Warned(text=text, fix=fix, level=level):
            return f"{level}: {text}" + (f" (fix: {fix})" if fix else "")
        case Failed(text=text, fix=fix):
            return f"error: {text}" + (f" (fix: {fix})" if fix else "")
        case WeightsMeasured(parts=parts):
            return "; ".join(_weights(part) for part in parts)
        case _:
            return None


def _weights(part: Mapping[str, Any]) -> str:
    """`U-Net: the update is 0.031 of the weights`"""
    name = PART_NAMES.get(part["part"], part["part"])
    changed, ratio = part["num_modules"] - part["num_unchanged"], part["ratio"]
    if not changed:
        return f"{name}: nothing changed"
    if ratio is None:
        return f"{name}: {changed} of {part['num_modules']} modules changed"
    return f"{name}: the update is {ratio:.2g} of the weights"
