"""Where a life of a run starts and ends: sd-scripts' counting, turned into one absolute count.

Facts of the pinned commit, each seen on real runs. A state holds the LoRA, the optimizer, the
scheduler's count, the random states and `train_state.json` (`current_epoch`, `current_step`). On
`--resume` the optimizer and the scheduler go on, but `global_step` restarts at 0, so step numbers,
names of files saved every N steps and `current_step` of later states count from the resume; a
third life that trusts `current_step` starts at a wrong place. `--skip_until_initial_step` counts
from the start of an epoch, divides by the wrong length when gradients are accumulated, and runs
past the end when the last epoch is cut. The schedule's curve hangs on `max_train_steps`, which is
not kept in the state.

So a life is started in one of two ways:

- *whole epochs*: it starts and ends at an epoch's end. `--initial_step` is the absolute step,
  `--max_train_steps` the whole run's: sd-scripts then names epochs absolutely, trains exactly the
  epochs that are left, and its own schedule goes on.
- *steps*: `--initial_step 0`, `--max_train_steps` what is left, and the rest of the curve as a
  table. Epochs and steps count from the resume, and `Life` turns them into absolute ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tenner.engines.sd_scripts.facts import Value
from tenner.engines.sd_scripts.schedules import Schedule, rules


@dataclass(frozen=True, kw_only=True)
class Life:
    """One start of the trainer. Steps are optimizer steps.

    `first_step` steps were done before it; the run is complete after `num_steps`.
    """

    number: int = 1
    first_step: int = 0
    num_steps: int
    steps_per_epoch: int
    num_processes: int = 1

    @property
    def in_whole_epochs(self) -> bool:
        """It starts and ends at an epoch's end."""
        return not (self.first_step % self.steps_per_epoch or self.num_steps % self.steps_per_epoch)

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

    def step_at_epoch_end(self, shown: int) -> int:
        """The absolute step at the end of the epoch that sd-scripts calls `shown`, from 1."""
        done = 0 if self.in_whole_epochs else self.first_step
        return min(done + shown * self.steps_per_epoch, self.num_steps)

    def options(self, schedule: Schedule | None, *, state: str | None) -> dict[str, Value]:
        """sd-scripts' options for this life, on top of the run's own.

        `state` is the state to go on from. Without one the life starts with a fresh optimizer and
        its scheduler counts from 0, which the table allows for.
        """
        if self.first_step == 0:
            return {"max_train_steps": self.num_steps}
        resume: dict[str, Value] = {"resume": state} if state else {}
        if self.in_whole_epochs and state:
            return {
                "max_train_steps": self.num_steps,
                "initial_step": self.first_step,
                **resume,
            }
        left: dict[str, Value] = {
            "max_train_steps": self.num_steps - self.first_step,
            "initial_step": 0,
            **resume,
        }
        return left | self._rest_of_curve(schedule, has_state=state is not None)

    def _rest_of_curve(self, schedule: Schedule | None, *, has_state: bool) -> dict[str, Value]:
        if schedule is None or schedule.name == "constant":
            return {}
        table = rules(
            schedule,
            start=self.first_step,
            num_processes=self.num_processes,
            counted_from=0 if has_state else self.first_step,
        )
        return {
            "lr_scheduler": "piecewise_constant",
            "lr_scheduler_args": (f"step_rules={table!r}",),
            "lr_warmup_steps": 0,
            "lr_decay_steps": 0,
        }


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
    kept: dict[str, Value] = {"save_state": True}
    if options.get("save_every_n_epochs"):
        kept["save_last_n_epochs_state"] = 2
    if every := options.get("save_every_n_steps"):
        kept["save_last_n_steps_state"] = int(str(every))
    return kept


def checkpoint_name(output_name: str, *, step: int, life: Life, by_epoch: bool) -> str:
    """The name that a checkpoint keeps in the run: absolute, so that no life overwrites another's.

    The names are sd-scripts' own: `name-000004.safetensors` after epoch 4,
    `name-step00000400.safetensors` after step 400, `name.safetensors` at the end.
    """
    if step >= life.num_steps:
        return f"{output_name}.safetensors"
    if by_epoch and step % life.steps_per_epoch == 0:
        return f"{output_name}-{step // life.steps_per_epoch:06d}.safetensors"
    return f"{output_name}-step{step:08d}.safetensors"
