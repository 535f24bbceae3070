"""Where an attempt of a run starts and ends: sd-scripts' counting, turned into one absolute count.

Facts of the pinned commit, each seen on real runs. A state holds the LoRA, the optimizer, the
scheduler's count and the random states. On `--resume` the optimizer and the scheduler continue, but
`global_step` restarts at 0, so step numbers and the names of files saved by step count from the
resume. Epochs count from the one that contains `--initial_step`, and are trained whole: its own
`--skip_until_initial_step` divides by the wrong length when gradients are accumulated, and runs
past the end when the last epoch is cut.

So every attempt is given the length of the whole run, whose schedule it takes, and the step that it
starts after. `with_states.py`, which runs in the trainer, hands out the batches that are left of
that epoch and ends the run at its last step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tenner.kohya.options import Value


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of the trainer. Steps are optimizer steps.

    `first_step` steps were done before it; the run is complete after `num_steps`.
    """

    first_step: int = 0
    num_steps: int
    steps_per_epoch: int

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run; the last may be cut."""
        return math.ceil(self.num_steps / self.steps_per_epoch)

    def absolute_step(self, shown: int) -> int:
        """The run's step when sd-scripts shows `shown`."""
        return self.first_step + shown

    def absolute_epoch(self, step: int) -> int:
        """The epoch, from 1, that the absolute `step` belongs to."""
        return max(1, math.ceil(step / self.steps_per_epoch))

    def step_at_epoch_end(self, epoch: int) -> int:
        """The absolute step at the end of an epoch, from 1."""
        return min(epoch * self.steps_per_epoch, self.num_steps)

    def options(self, *, state: str | None) -> dict[str, Value]:
        """sd-scripts' options for this attempt, on top of the run's own; `state` is the state to go
        on from."""
        whole: dict[str, Value] = {"max_train_steps": self.num_steps}
        if self.first_step == 0 or state is None:
            return whole
        return {**whole, "initial_step": self.first_step, "resume": state}


def steps_per_epoch(
    images_per_bucket: Sequence[int],
    *,
    batch_size: int,
    gradient_accumulation_steps: int = 1,
    num_processes: int = 1,
) -> int:
    """Optimizer steps of an epoch, as sd-scripts and accelerate count them.

    `images_per_bucket` counts repeats. A batch never mixes buckets; what is left of a bucket makes
    a smaller batch; processes get equally many batches; accumulation ends with the epoch.
    """
    batches = sum(math.ceil(images / batch_size) for images in images_per_bucket)
    return max(1, math.ceil(math.ceil(batches / num_processes) / gradient_accumulation_steps))


def keep_states(options: Mapping[str, Value]) -> dict[str, Value]:
    """Save a state with every checkpoint, and keep the newest two of them.

    sd-scripts deletes the older one only after the newer is written.
    """
    added: dict[str, Value] = {"save_state": True}
    if options.get("save_every_n_epochs"):
        added["save_last_n_epochs_state"] = 2
    if every := options.get("save_every_n_steps"):
        added["save_last_n_steps_state"] = int(str(every))
    return added


def checkpoint_name(output_name: str, *, step: int, attempt: Attempt, by_epoch: bool) -> str:
    """The name that a checkpoint keeps in the run: absolute, so that no attempt overwrites
    another's.

    The names are sd-scripts' own: `name-000004.safetensors` after epoch 4,
    `name-step00000400.safetensors` after step 400, `name.safetensors` at the end.
    """
    if step >= attempt.num_steps:
        return f"{output_name}.safetensors"
    if by_epoch and step % attempt.steps_per_epoch == 0:
        return f"{output_name}-{step // attempt.steps_per_epoch:06d}.safetensors"
    return f"{output_name}-step{step:08d}.safetensors"
