"""The learning-rate schedules of sd-scripts as functions of the absolute step.

sd-scripts takes the schedules of transformers (`transformers.optimization`); their formulas are
here in pure Python, so that the rate of each step is known without torch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tenner.engines.train_options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One schedule. Steps are optimizer steps; `num_steps` those of the whole run.

    `base_lr` is `learning_rate`, which only `polynomial` looks at (it ends at 1e-7).
    """

    name: str
    num_steps: int
    warmup_steps: int = 0
    decay_steps: int = 0
    num_cycles: int = 1
    power: float = 1.0
    min_lr_ratio: float | None = None
    timescale: int | None = None
    base_lr: float = 1e-4

    @property
    def is_free_of_length(self) -> bool:
        """The curve up to a step does not hang on how many steps follow."""
        return self.name in _FREE_OF_LENGTH

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at `step`, counted from 0.

        Raises KeyError for schedules that are not known here (those given as a class).
        """
        shape = _SHAPES[self.name]
        if step < self.warmup_steps and self.name != "constant":
            least = (self.min_lr_ratio or 0.0) if self.name == "warmup_stable_decay" else 0.0
            return step / self.warmup_steps * (1 - least) + least
        return shape(self, step)


def schedule_of(options: TrainOptions, *, num_steps: int) -> Schedule | None:
    """The schedule of these options.

    None where the curve is not known here: a scheduler given as a class, extra arguments for it,
    or an optimizer that brings its own. A warm-up or decay below 1 is a share of all steps.
    """
    name: str = options.lr_scheduler
    optimizer = options.optimizer_type.lower()
    other = options.only_sd_scripts
    own = optimizer.endswith("schedulefree") or optimizer == "adafactor"
    given = other("lr_scheduler_type") or other("lr_scheduler_args")
    if given or own or name not in _SHAPES:
        return None
    return Schedule(
        name=name,
        num_steps=num_steps,
        warmup_steps=_steps(options.lr_warmup_steps, num_steps),
        decay_steps=_steps(other("lr_decay_steps"), num_steps),
        num_cycles=options.lr_scheduler_num_cycles,
        power=options.lr_scheduler_power,
        min_lr_ratio=_optional(other("lr_scheduler_min_lr_ratio")),
        timescale=int(_number(other("lr_scheduler_timescale"), 0)) or None,
        base_lr=options.learning_rate,
    )


def _progress(schedule: Schedule, step: int) -> float:
    left = max(1, schedule.num_steps - schedule.warmup_steps)
    return (step - schedule.warmup_steps) / left


def _cosine_wave(progress: float, num_cycles: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * num_cycles * 2 * progress))


def _constant(schedule: Schedule, step: int) -> float:
    return 1.0


def _linear(schedule: Schedule, step: int) -> float:
    return max(0.0, 1 - _progress(schedule, step))


def _cosine(schedule: Schedule, step: int) -> float:
    return max(0.0, _cosine_wave(_progress(schedule, step), 0.5))


def _cosine_with_restarts(schedule: Schedule, step: int) -> float:
    progress = _progress(schedule, step)
    if progress >= 1:
        return 0.0
    return max(0.0, 0.5 * (1 + math.cos(math.pi * ((schedule.num_cycles * progress) % 1.0))))


def _cosine_with_min_lr(schedule: Schedule, step: int) -> float:
    least = schedule.min_lr_ratio or 0.0
    wave = _cosine_wave(_progress(schedule, step), schedule.num_cycles / 2)
    return max(0.0, wave * (1 - least) + least)


def _polynomial(schedule: Schedule, step: int) -> float:
    end = 1e-7
    if step > schedule.num_steps:
        return end / schedule.base_lr
    left = 1 - _progress(schedule, step)
    return ((schedule.base_lr - end) * left**schedule.power + end) / schedule.base_lr


def _inverse_sqrt(schedule: Schedule, step: int) -> float:
    timescale = schedule.timescale or schedule.warmup_steps or 10_000
    return 1 / math.sqrt((step + timescale - schedule.warmup_steps) / timescale)


def _warmup_stable_decay(schedule: Schedule, step: int) -> float:
    least = schedule.min_lr_ratio or 0.0
    until = schedule.num_steps - schedule.decay_steps
    if step < until:
        return 1.0
    if step >= schedule.num_steps:
        return least
    wave = _cosine_wave((step - until) / max(1, schedule.decay_steps), schedule.num_cycles / 2)
    return max(0.0, (1 - least) * wave + least)


_SHAPES: Mapping[str, Callable[[Schedule, int], float]] = {
    "constant": _constant,
    "constant_with_warmup": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "polynomial": _polynomial,
    "inverse_sqrt": _inverse_sqrt,
    "warmup_stable_decay": _warmup_stable_decay,
}

_FREE_OF_LENGTH = ("constant", "constant_with_warmup", "inverse_sqrt")


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float | str) and value != "" else default


def _optional(value: object) -> float | None:
    return None if value is None else _number(value, 0)


def _steps(value: object, num_steps: int) -> int:
    number = _number(value, 0)
    return int(number * num_steps) if number < 1 else int(number)
