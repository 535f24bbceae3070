"""sd-scripts' trainer, saving states by time: runs in the trainer's Python, around its own code.

    python with_states.py SECONDS SCRIPT [the script's options]

None of its files are changed. Its training class is derived from and a few of its functions are
wrapped, so that at the end of an optimizer step

- a state is saved by its own `save_and_remove_state_stepwise` once SECONDS have passed since the
  last one;
- after SIGTERM or SIGINT it saves a checkpoint and a state by its own code, and ends with 143;
- a run resumes from a state at the very batch: the images of the epoch that are left, in the order
  and with the random numbers of a run that was never stopped (with worker processes that load
  images: the same images with new random numbers);
- steps, session and time in the metadata of a file are those of the whole run;
- a last step of an epoch with fewer batches than the others weighs as much as they do, and weights
  by SNR are of the noise that is trained with, also with zero terminal SNR: as in tenner's own
  trainer;
- LyCORIS can make (IA)³ (`lycoris_ia3.py`).

This file imports nothing of tenner, which is not installed there, and torch only with the trainer.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingParameterType=false
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false
# pyright: reportMissingTypeStubs=false

import hashlib
import importlib
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

STOPPED = 143
POSITION = "position.bin"
"""What this file adds to a state of accelerate: where in the epoch it was saved."""


class RngStates:
    """Save and restore the states of this process's random number generators."""

    @staticmethod
    def save(*, of_cards: bool) -> dict[str, Any]:
        import numpy as np
        import torch

        found: dict[str, Any] = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
        }
        if of_cards and torch.cuda.is_available():
            found["cuda"] = torch.cuda.get_rng_state_all()
        return found

    @staticmethod
    def restore(found: Mapping[str, Any]) -> None:
        import numpy as np
        import torch

        random.setstate(found["python"])
        np.random.set_state(found["numpy"])
        torch.set_rng_state(found["torch"])
        cards = found.get("cuda", [])
        if len(cards) == torch.cuda.device_count():
            for index, each in enumerate(cards):
                torch.cuda.set_rng_state(each, index)


class Attempt:
    """One start of the trainer: the steps it has done, what it saves and when it ends.

    Steps are optimizer steps of the whole run. `saved_step` is the newest one that both weights
    and state were saved after, in this attempt or the one before.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.first_step = self.step = self.saved_step = 0
        self.num_steps = sys.maxsize
        self.every: int | None = None
        self.started = time.time()
        self.session = 0
        self.finished = False
        self.rng_state: Any = None
        self.train_util: Any = None
        self._saves_weights = False
        self._stopping = False
        self._signalled = False
        self._saved_at = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def begin(self, args: Any, train_util: Any) -> None:
        """Read the options of this start."""
        self.train_util = train_util
        self.first_step = self.step = self.saved_step = int(args.initial_step or 0)
        self.num_steps = int(args.max_train_steps)
        self.every = args.save_every_n_steps
        self._set_session(args)
        for name in ("save_and_remove_state_stepwise", "save_and_remove_state_on_epoch_end"):
            setattr(train_util, name, self._then_saved(getattr(train_util, name)))

    def _set_session(self, args: Any) -> None:
        seed = f"{args.output_name}{self.started}".encode()
        self.session = int.from_bytes(hashlib.sha256(seed).digest()[:4], "big")

    def resume(self, position: Mapping[str, Any], args: Any) -> None:
        """Take the start time and session of the whole run from the earlier attempt's state."""
        self.started = position["started"]
        self._set_session(args)

    def network_made(self) -> None:
        """Count SECONDS from here: encoding the images before it can lose no step."""
        self._saved_at = time.monotonic()

    def after_step(self, accelerator: Any, args: Any, global_step: int) -> None:
        """An optimizer step is done. The trainer looks at `save_every_n_steps` next, and saves its
        checkpoint and state by it; `global_step` counts from the start of this attempt."""
        self.step = self.first_step + global_step
        self.rng_state = random.getstate()
        if self.step >= self.num_steps:
            args.save_every_n_steps = self.every if self._is_due() else None
            self._saves_weights = self._is_due()
            return
        self._stopping, late = self._agreed(accelerator)
        self._saves_weights = self._stopping or self._is_due()
        args.save_every_n_steps = 1
        if late and not self._saves_weights and accelerator.is_main_process:
            self.train_util.save_and_remove_state_stepwise(args, accelerator, global_step)
        if not self._saves_weights:
            args.save_every_n_steps = None
        if late:
            self._saved_at = time.monotonic()

    def before_pass(self, accelerator: Any) -> None:
        """Processes that save nothing end with the one that has saved."""
        if self._stopping and not accelerator.is_main_process:
            self._leave(accelerator)

    def _is_due(self) -> bool:
        return bool(self.every) and self.step % int(self.every or 1) == 0

    def _agreed(self, accelerator: Any) -> tuple[bool, bool]:
        """Whether to end and whether a state is due: if so in one process, then in all."""
        late = time.monotonic() - self._saved_at >= self.seconds
        if accelerator.num_processes == 1:
            return self._signalled, late
        import torch

        flags = torch.tensor([self._signalled, late], dtype=torch.int32, device=accelerator.device)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        stop, due = flags.tolist()
        return bool(stop), bool(due)

    def _then_saved(self, save: Callable[..., None]) -> Callable[..., None]:
        by_epoch = "epoch" in save.__name__

        def saved(args: Any, accelerator: Any, *rest: Any) -> None:
            if by_epoch:
                self.rng_state = random.getstate()
            save(args, accelerator, *rest)
            random.setstate(self.rng_state)  # rich takes a random number for each line of the log
            self._saved_at = time.monotonic()
            if by_epoch or self._saves_weights:
                self.saved_step = self.step
            ends = self._signalled and accelerator.num_processes == 1
            if self._stopping or (ends and self.saved_step == self.step < self.num_steps):
                self._leave(accelerator)

        return saved

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """End at once where nothing was trained since the last save, else with the step. What is
        saved after the last step is waited for, and nothing after that."""
        self._signalled = True
        if self.finished or self.step == self.saved_step < self.num_steps:
            os._exit(STOPPED)

    def _leave(self, accelerator: Any) -> None:
        for tracker in accelerator.trackers:
            tracker.finish()
        if accelerator.num_processes > 1:
            accelerator.wait_for_everyone()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(STOPPED)


class Batches:
    """The trainer's batches: those of the first epoch that are left, then whole epochs.

    Knows where in the epoch the training is, and writes that into each state. accelerate fetches
    one batch ahead, so a state needs the random numbers from before that batch (`fetch`), those of
    now, and those that the epoch was shuffled with (`order`).
    """

    def __init__(self, attempt: Attempt, args: Any) -> None:
        self._attempt = attempt
        self._accumulation = int(args.gradient_accumulation_steps or 1)
        self._position = self._read(args)
        self._is_first = True
        self._loader: Any = None
        self._done = 0
        self._order: dict[str, Any] = {}
        self._fetch: dict[str, Any] | None = None
        self._pending: Mapping[str, Any] | None = None
        self.losses: Any = None
        self.unrecorded: Any = None
        self.skipped = 0

    def of(self, loader: Any) -> "Batches":
        """Wrap accelerate's `loader`."""
        self._loader = loader
        if loader.num_workers:
            loader.base_dataloader.worker_init_fn = _ignore_signals
        else:
            self._watch(loader.dataset)
        return self

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[Any]:
        loader = (
            self._resumed() if self._is_first and self._attempt.first_step else self._from_start()
        )
        self._is_first = False
        for batch in loader:
            if self._pending is not None:  # images came from workers, which have their own rng
                RngStates.restore(self._pending["now"])
                self._pending = None
            self._done += 1
            yield batch
            if self._attempt.step >= self._attempt.num_steps:
                return

    def short_step_scale(self) -> float:
        """What a batch's loss is multiplied by. accelerate divides by the number of batches of a
        whole step, also in the last step of an epoch, which may have fewer."""
        short = len(self._loader) % self._accumulation
        is_short = short and self._done > len(self._loader) - short
        return self._accumulation / short if is_short else 1.0

    def save(self, models: Any, weights: Any, output_dir: str) -> None:
        """accelerate's hook, called before it writes a state at the end of a step."""
        import torch

        torch.save(
            {
                "step": self._attempt.step,
                "started": self._attempt.started,
                "order": self._order,
                "fetch": self._fetch,
                "now": {**RngStates.save(of_cards=True), "python": self._attempt.rng_state},
                **self._losses(),
            },
            Path(output_dir) / POSITION,
        )

    def _losses(self) -> dict[str, Any]:
        """The record of losses with that of this batch, which the trainer adds after saving."""
        losses, total = list(self.losses.loss_list), float(self.losses.loss_total)
        if self.unrecorded is not None:
            index, loss = self._done - 1, self.unrecorded.detach().item()
            losses += [0.0] * (self._done - len(losses))
            total += loss - losses[index]
            losses[index] = loss
        return {"losses": losses, "loss_total": total}

    def _from_start(self) -> Any:
        self._done = self.skipped = 0
        self._order = self._order_state()
        return self._loader

    def _order_state(self) -> dict[str, Any]:
        generator = getattr(self._sampler(), "generator", None)
        return {
            "numbers": RngStates.save(of_cards=False),
            "sampler": generator.get_state() if generator is not None else None,
        }

    def _sampler(self) -> Any:
        sampler = self._loader.batch_sampler
        while hasattr(sampler, "batch_sampler"):  # one of several processes
            sampler = sampler.batch_sampler
        return sampler.sampler

    def _resumed(self) -> Any:
        """The epoch that the state was saved in, from the batch after it."""
        per_epoch = math.ceil(len(self._loader) / self._accumulation)
        epoch, rest = divmod(self._attempt.first_step, per_epoch)
        self._done = self.skipped = rest * self._accumulation
        # Buckets are shuffled with the first batch of an epoch, once for each epoch until then.
        self._loader.dataset.set_current_epoch(epoch + (1 if rest else 0))
        position = self._position
        if position is None:
            return self._rest()
        self._restore_losses(position)
        if not rest:
            RngStates.restore(position["now"])
            self._order = self._order_state()
            return self._loader
        self._order = position["order"]
        RngStates.restore(self._order["numbers"])
        if self._order["sampler"] is not None:
            self._sampler().generator.set_state(self._order["sampler"])
        self._pending = position
        return self._rest()

    def _rest(self) -> Any:
        if not self.skipped:
            return self._loader
        from accelerate.data_loader import skip_first_batches

        return skip_first_batches(self._loader, self.skipped)

    def _restore_losses(self, position: Mapping[str, Any]) -> None:
        self.losses.loss_list[:] = position["losses"]
        self.losses.loss_total = position["loss_total"]

    def _read(self, args: Any) -> Mapping[str, Any] | None:
        path = Path(args.resume or "") / POSITION
        if not args.resume or not path.is_file():
            return None
        import torch

        found = torch.load(path, map_location="cpu", weights_only=False)
        self._attempt.resume(found, args)
        return found if found["step"] == self._attempt.first_step else None

    def _watch(self, dataset: Any) -> None:
        """Record the states of the generators before each batch is fetched.

        After a resume the batch that had been fetched ahead is fetched with the recorded states.
        """
        kind = type(dataset)
        original = kind.__getitem__

        def fetched(this: Any, index: int) -> Any:
            if this is not dataset:
                return original(this, index)
            pending, self._pending = self._pending, None
            if pending is not None and pending["fetch"] is not None:
                RngStates.restore(pending["fetch"])
            self._fetch = RngStates.save(of_cards=False)
            found = original(this, index)
            if pending is not None:
                RngStates.restore(pending["now"])
            return found

        kind.__getitem__ = fetched


def _ignore_signals(number: int) -> None:
    """Initialise a worker that loads images: signals are for the process that it works for."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _CountedFrom:
    """A counter of the trainer's, plus the steps before this attempt."""

    def __init__(self, counter: Any, first: int) -> None:
        self._counter = counter
        self._first = first

    @property
    def value(self) -> int:
        return self._counter.value + self._first


def wrap_functions(train_util: Any, attempt: Attempt, batches: Batches) -> None:
    """Let the trainer make its accelerator, collator and record of losses through this file."""
    prepare_accelerator = train_util.prepare_accelerator
    collator, recorder = train_util.collator_class, train_util.LossRecorder

    def prepared(args: Any) -> Any:
        accelerator = prepare_accelerator(args)
        prepare, backward = accelerator.prepare, accelerator.backward

        def with_scale(loss: Any, **named: Any) -> None:
            scale = batches.short_step_scale()
            backward(loss if scale == 1.0 else loss * scale, **named)

        def with_batches(*given: Any, **named: Any) -> Any:
            found = prepare(*given, **named)
            if not isinstance(found, tuple):
                return found
            first = next((each for each in found if hasattr(each, "batch_sampler")), None)
            return tuple(batches.of(each) if each is first else each for each in found)

        accelerator.prepare = with_batches
        accelerator.backward = with_scale
        accelerator.register_save_state_pre_hook(batches.save)
        return accelerator

    class Collator(collator):
        def __init__(self, epoch: Any, step: Any, dataset: Any) -> None:
            super().__init__(epoch, _CountedFrom(step, attempt.first_step), dataset)

    class Losses(recorder):
        """The first one is the training's; others are the validation's."""

        def __init__(self) -> None:
            super().__init__()
            if batches.losses is None:
                batches.losses = self

        def add(self, *, epoch: int, step: int, loss: float) -> None:
            skipped = batches.skipped if batches.losses is self else 0
            super().add(epoch=epoch, step=step + skipped, loss=loss)
            if batches.losses is self:
                batches.unrecorded = None

    train_util.prepare_accelerator = prepared
    train_util.collator_class = Collator
    train_util.LossRecorder = Losses


def saving(trainer: Any, attempt: Attempt, batches: Batches) -> Any:
    """The trainer's class, which reports the end of each step to `attempt`."""

    class Saving(trainer):
        def post_process_network(self, args: Any, accelerator: Any, network: Any, *more: Any):
            super().post_process_network(args, accelerator, network, *more)
            attempt.network_made()
            save = network.save_weights

            def named(file: str, dtype: Any, metadata: Mapping[str, str] | None) -> None:
                of_run = {
                    "ss_steps": str(attempt.step),
                    "ss_session_id": str(attempt.session),
                    "ss_training_started_at": str(attempt.started),
                }
                known = {key: of_run[key] for key in of_run if metadata and key in metadata}
                save(file, dtype, {**metadata, **known} if metadata else metadata)
                attempt.finished = (
                    attempt.step >= attempt.num_steps and Path(file).stem == args.output_name
                )

            network.save_weights = named

        def get_noise_scheduler(self, args: Any, device: Any) -> Any:
            noise = super().get_noise_scheduler(args, device)
            if args.zero_terminal_snr:  # it was computed from the betas before the rescaling
                alphas = noise.alphas_cumprod
                noise.all_snr = (alphas / (1 - alphas)).to(device)
            return noise

        def on_step_start(self, args: Any, accelerator: Any, *more: Any, **named: Any):
            attempt.before_pass(accelerator)
            super().on_step_start(args, accelerator, *more, **named)

        def process_batch(self, *given: Any, is_train: bool = True, **named: Any) -> Any:
            loss = super().process_batch(*given, is_train=is_train, **named)
            batches.unrecorded = loss if is_train else batches.unrecorded
            return loss

        def sample_images(self, accelerator: Any, args: Any, epoch: Any, step: int, *more: Any):
            super().sample_images(accelerator, args, epoch, step, *more)
            if epoch is None:  # the call after each optimizer step
                attempt.after_step(accelerator, args, step)

    return Saving()


def trainer_of(module: Any) -> Any:
    """The class that a script trains with: the one that it defines for its family."""
    own = [
        each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__
    ]
    return next(each for each in own if each.__name__.endswith("NetworkTrainer"))


def main(argv: list[str]) -> None:
    """Run the script as a program would be run."""
    attempt = Attempt(float(argv[0]))
    script = Path(argv[1])
    sys.argv = argv[1:]
    ia3 = importlib.import_module("lycoris_ia3")  # beside this file, whose folder is left next
    sys.path[0] = str(script.parent)
    module = importlib.import_module(script.stem)
    train_util = module.train_util
    parser = module.setup_parser()
    args = parser.parse_args()
    train_util.verify_command_line_training_args(args)
    args = train_util.read_config_from_file(args, parser)
    if ia3.is_requested(args.network_module, args.network_args):
        ia3.make_available()
    attempt.begin(args, train_util)
    batches = Batches(attempt, args)
    wrap_functions(train_util, attempt, batches)
    saving(trainer_of(module), attempt, batches).train(args)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written, and torch would need seconds to shut down


if __name__ == "__main__":
    main(sys.argv[1:])
