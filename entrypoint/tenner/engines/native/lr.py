"""The learning rate at a step: the usual curves, as pure functions of the step."""

import math

from tenner.core.train_job import TrainJob


def warmup_steps(job: TrainJob, num_steps: int) -> int:
    """Steps of warm-up; a value below 1 is a fraction of all steps."""
    warmup = job.lr_warmup_steps
    return int(warmup * num_steps) if 0 < warmup < 1 else int(warmup)


def lr_factor(job: TrainJob, step: int, num_steps: int) -> float:
    """What the base rate is multiplied by in step `step` (from 0) of `num_steps`."""
    kind = job.lr_scheduler
    warm = warmup_steps(job, num_steps) if kind != "constant" else 0
    if step < warm:
        return step / max(1, warm)
    if kind in ("constant", "constant_with_warmup"):
        return 1.0
    progress = (step - warm) / max(1, num_steps - warm)
    if kind == "linear":
        return max(0.0, 1.0 - progress)
    if kind == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    if kind == "cosine_with_restarts":
        if progress >= 1.0:
            return 0.0
        cycle = (job.lr_scheduler_num_cycles * progress) % 1.0
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * cycle)))
    return _polynomial(job, progress)


def _polynomial(job: TrainJob, progress: float) -> float:
    """Down to a ten-millionth of the rate, the end value that transformers uses (1e-7)."""
    end = 1e-7 / job.learning_rate if job.learning_rate else 0.0
    if progress >= 1.0:
        return end
    return (1.0 - end) * (1.0 - progress) ** job.lr_scheduler_power + end
