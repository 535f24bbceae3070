"""A run as a command: sd-scripts' trainer in one process, or one for each card.

`accelerate launch` only sets variables and imports torch once more (about five seconds), so one
process is started as `python with_states.py … train_network.py`; several cards need it, with every
setting given, so that no accelerate configuration of the machine has an effect. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tenner.core.command import Command
from tenner.core.family import Family
from tenner.core.parent_death import dying_with_launcher
from tenner.engines.sd_scripts.arguments import Paths, arguments, translate
from tenner.engines.sd_scripts.find import Trainer
from tenner.engines.sd_scripts.log_lines import LearningRates
from tenner.engines.sd_scripts.resume import Attempt, keep_states
from tenner.engines.sd_scripts.schedules import Schedule, schedule_of
from tenner.engines.train_options import TrainOptions
from tenner.families import FAMILIES
from tenner.kohya.options import Value

THREADS_PER_PROCESS = 4  # the guide's --num_cpu_threads_per_process
WRAPPER = Path(__file__).with_name("with_states.py").resolve()
"""What runs the trainer's script, in its Python, and saves states on time."""
LOG_WIDTH = 240
"""Columns of the log: wide enough that hardly a message wraps."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run for sd-scripts.

    `num_steps` are optimizer steps of the whole run; `cpus` what this process may use. A state is
    saved every `state_minutes`.
    """

    trainer: Trainer
    family: Family
    paths: Paths
    options: TrainOptions
    num_steps: int
    steps_per_epoch: int
    num_processes: int = 1
    on_cpu: bool = False
    cpus: float = 4.0
    state_minutes: float = 5.0

    def attempt(self, first_step: int = 0) -> Attempt:
        """The attempt that starts after `first_step` steps."""
        return Attempt(
            first_step=first_step,
            num_steps=self.num_steps,
            steps_per_epoch=self.steps_per_epoch,
        )


def command(job: Job, attempt: Attempt, *, state: Path | None = None) -> Command:
    """The program of one attempt, which resumes from `state`."""
    words = arguments(sd_options(job, attempt, state=state))
    name = FAMILIES[job.family].script
    script = (str(WRAPPER), str(job.state_minutes * 60), str(job.trainer.directory / name))
    python = str(job.trainer.python)
    threads = threads_per_process(job)
    if job.num_processes == 1:
        return Command(argv=(python, *script, *words), env=_environment(job, threads))
    launch = (
        *("-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_machines", "1", "--num_processes", str(job.num_processes)),
        *("--mixed_precision", job.options.mixed_precision),
        *("--dynamo_backend", "no", "--num_cpu_threads_per_process", str(threads), "--no_python"),
    )
    worker = dying_with_launcher(python, (*script, *words))
    return Command(argv=(python, *launch, *worker), env=_environment(job, threads))


def sd_options(job: Job, attempt: Attempt, *, state: Path | None = None) -> dict[str, Value]:
    """All options of one attempt by sd-scripts' names."""
    options = {**job.options.by_name(), "num_processes": job.num_processes}
    found = translate(options, family=job.family)
    if job.num_processes > 1:
        found = {"ddp_timeout": 30, **found}  # minutes; others wait while one card caches or saves
    return {
        **found,
        **keep_states(found),
        **job.paths.options(),
        **attempt.options(state=str(state) if state else None),
    }


def learning_rates(job: Job) -> LearningRates | None:
    """The learning rates of each absolute step, where the schedule is one that is known.

    Optimizers that find the rate themselves (Prodigy, D-Adaptation) multiply it by their own.
    """
    schedule = _schedule(job)
    if schedule is None:
        return None
    base = _base_rates(job.options)

    def at(step: int) -> Mapping[str, float]:
        factor = schedule.factor(max(0, step - 1))
        return {name: rate * factor for name, rate in base.items()}

    return at


def threads_per_process(job: Job) -> int:
    """CPU threads of each process: the guide's four, no more than there are; all on a CPU."""
    share = max(1, int(job.cpus) // job.num_processes)
    return share if job.on_cpu else min(THREADS_PER_PROCESS, share)


def _schedule(job: Job) -> Schedule | None:
    return schedule_of(job.options, num_steps=job.num_steps)


def _base_rates(options: TrainOptions) -> dict[str, float]:
    rates = dict[str, float]()
    if not options.network_train_text_encoder_only:
        rates["unet"] = options.unet_lr
    if not options.network_train_unet_only:
        rates["text_encoder"] = options.text_encoder_lr[0]
    return rates


def _environment(job: Job, threads: int) -> dict[str, str]:
    found = {
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
        "COLUMNS": str(LOG_WIDTH),
        "TQDM_NCOLS": "100",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    if FAMILIES[job.family].hub_tokenizers and job.paths.tokenizers:
        found["HF_HUB_CACHE"] = str(job.paths.tokenizers.absolute())
    if job.on_cpu:
        found["ACCELERATE_USE_CPU"] = "true"
    return found
