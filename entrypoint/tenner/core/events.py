"""What happened in a run, one JSON line each: the protocol between an engine, the log and the
screen.

Only the standard library is used here: engines import this module in environments that hold
nothing else of tenner's dependencies. Times are seconds, steps are optimizer steps counted from 1
over all attempts of a run, epochs count from 1.
"""

import json
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from tenner.core.messages import has_id, message_of

FailureKind = Literal[
    "oom",
    "nan",
    "no_data",
    "base_model",
    "broken_state",
    "host",
    "host_memory",
    "killed",
    "disk",
    "other",
]
"""`oom` is the card's memory, `host_memory` the machine's; `killed` a signal from outside whose
cause is not known; `disk` a disk that takes no more."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a run. `event` names the kind in its JSON form.

    Beside the English of texts their ids and values are written, under `messages`.
    """

    event: ClassVar[str] = "event"

    def to_dict(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        messages = {name: each.to_json() for name, each in values.items() if has_id(each)}
        return {"event": self.event, **values} | ({"messages": messages} if messages else {})

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class Phase(Event):
    """A part of the work begins or advances: loading, caching, training, sampling, delivering."""

    event: ClassVar[str] = "phase"
    name: str
    detail: str = ""
    done: int | None = None
    total: int | None = None


@dataclass(frozen=True, kw_only=True)
class Step(Event):
    """One optimizer step. `loss` is the step's mean; `loss_avg` the running mean of an epoch."""

    event: ClassVar[str] = "step"
    step: int
    num_steps: int
    epoch: int
    num_epochs: int
    loss: float
    loss_avg: float
    lr: dict[str, float] = field(default_factory=dict[str, float])
    images_per_second: float = 0.0
    seconds_per_step: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EpochEnd(Event):
    """An epoch ended; `loss_avg` is its mean loss."""

    event: ClassVar[str] = "epoch"
    epoch: int
    num_epochs: int
    loss_avg: float


@dataclass(frozen=True, kw_only=True)
class Validated(Event):
    """The mean loss on held-out images, at noise and timesteps that are the same each time."""

    event: ClassVar[str] = "validation"
    step: int
    epoch: int
    loss: float
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Event):
    """LoRA weights were written, whole, at `path`, and their moving average at `ema` where one is
    computed. `final` marks the end of the training."""

    event: ClassVar[str] = "checkpoint"
    path: str
    step: int
    epoch: int
    final: bool = False
    ema: str = ""


@dataclass(frozen=True, kw_only=True)
class StateSaved(Event):
    """All that is needed to resume from `step` was written, whole, at `path`."""

    event: ClassVar[str] = "state"
    path: str
    step: int
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Drew(Event):
    """Samples of a checkpoint were drawn while the run trains; `path` is the sheet of them."""

    event: ClassVar[str] = "samples"
    path: str
    epoch: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Sent(Event):
    """A checkpoint or a state of `step` is at `destination`, complete and verified."""

    event: ClassVar[str] = "sent"
    what: str
    step: int
    destination: str
    num_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """Something worth knowing while the run continues; a `note` costs neither money nor quality."""

    event: ClassVar[str] = "warning"
    text: str
    fix: str = ""
    level: Literal["warning", "note"] = "warning"


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The engine ended with an error. `text` and `fix` are for the user."""

    event: ClassVar[str] = "failed"
    kind: FailureKind
    text: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Rounded(Event):
    """Saving the final weights in a smaller precision took this share of each part's update."""

    event: ClassVar[str] = "rounded"
    lost: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, kw_only=True)
class WeightsMeasured(Event):
    """How far the final weights moved the base, for each network part.

    Each of `parts` has `part`, `num_modules`, `num_unchanged`, `norm`, `base_norm`, `ratio` (the
    update's Frobenius norm over that of the weights it adapts), `moved_ratio` (the same of what
    this training added) and `dtype`; numbers that could not be had are null.
    """

    event: ClassVar[str] = "weights"
    path: str
    parts: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class MemoryUsed(Event):
    """The peak of a card's memory over the steps up to `step`, without the first: what tensors took
    (`allocated_bytes`), and what the allocator held for them (`reserved_bytes`)."""

    event: ClassVar[str] = "memory"
    step: int
    allocated_bytes: int
    reserved_bytes: int


@dataclass(frozen=True, kw_only=True)
class Done(Event):
    """The engine finished: the final weights are at `path`, after `step` steps."""

    event: ClassVar[str] = "done"
    path: str
    step: int


_KINDS: dict[str, type[Event]] = {
    kind.event: kind
    for kind in (
        Phase,
        Step,
        EpochEnd,
        Validated,
        Checkpoint,
        StateSaved,
        Drew,
        Sent,
        Warned,
        Failed,
        Rounded,
        WeightsMeasured,
        MemoryUsed,
        Done,
    )
}


def parse_event(line: str) -> Event | None:
    """The event in `line`, or None where the line is anything else (a log line, a cut line)."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        return event_of(json.loads(line))
    except ValueError:
        return None


def event_of(found: Any) -> Event | None:
    """The event that a JSON value holds, or None.

    Unknown fields are passed over, so that an older program reads a newer engine's lines.
    """
    try:
        kind = _KINDS[found["event"]]
        known = {each.name for each in fields(kind)}
        values = {name: value for name, value in found.items() if name in known}
        for name, each in found.get("messages", {}).items():
            if isinstance(values.get(name), str):
                values[name] = message_of(each, values[name])
        return kind(**values)
    except (KeyError, TypeError, AttributeError):
        return None
