"""The training loop: steps, validation, checkpoints, and states to resume from bit for bit."""
# pyright: reportUnknownMemberType=false

import hashlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from tenner.core.events import Checkpoint, Phase, Rounded, StateSaved, Validated, Warned
from tenner.core.graph_obstacle import MOST_GRAPHS
from tenner.core.messages import Message, msg
from tenner.core.train_job import TrainJob
from tenner.core.weights import ema_path
from tenner.engines.native.batches import Schedule
from tenner.engines.native.captions import fixed_captions
from tenner.engines.native.ema import Ema
from tenner.engines.native.feed import Feed
from tenner.engines.native.graphs import (
    Backend,
    CudaBackend,
    GraphedPass,
    GraphError,
    reason_against,
)
from tenner.engines.native.latents import LatentCache
from tenner.engines.native.lora_file import lora_tensors, lost_in_saving, write_lora
from tenner.engines.native.metadata import file_metadata, training_metadata
from tenner.engines.native.network import Network
from tenner.engines.native.noise import NoiseSchedule
from tenner.engines.native.passes import PassInputs, TrainingPass
from tenner.engines.native.peak_memory import PeakMemory
from tenner.engines.native.processes import Processes
from tenner.engines.native.progress import EventWriter, Losses
from tenner.engines.native.rng import seed_of
from tenner.engines.native.state import Progress, drop_old_states, load_state, save_state
from tenner.engines.native.update import Updater
from tenner.engines.native.validation import Validation

# Steps between exchanges of the processes' stop flags: each waits for the device.
_STOP_INTERVAL = 5


class StopRequest:
    """Whether the run is requested to end: by SIGTERM or SIGINT after the current step, by the stop
    file after the current epoch."""

    def __init__(self, stop_file: str | None) -> None:
        self.by_signal = False
        self._file = Path(stop_file) if stop_file else None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def requested(self, *, at_epoch_end: bool) -> bool:
        by_file = at_epoch_end and self._file is not None and self._file.exists()
        return self.by_signal or by_file

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.by_signal = True


class Trainer:
    """Trains one job, in one of its processes."""

    def __init__(
        self,
        job: TrainJob,
        network: Network,
        noise: NoiseSchedule,
        latents: LatentCache,
        schedule: Schedule,
        processes: Processes,
        emit: EventWriter,
    ) -> None:
        self._job = job
        self._network = network
        self._noise = noise
        self._schedule = schedule
        self._processes = processes
        self._emit = emit
        self.validation: Validation | None = None
        self._updater = Updater(job, network.bank, network.device, schedule.num_steps)
        decay = job.ema_decay
        self._ema = None if decay is None else Ema(network.bank.weights, decay)
        self._pass = TrainingPass(network, self._updater.scaled)
        self._run_pass: Callable[[PassInputs], Tensor] = self._pass
        self._feed = Feed(job, network, noise, latents, schedule, processes)
        self._seeds_passes = network.unet.restores_rng
        self._losses = Losses(emit, schedule, job.max_nonfinite_steps)
        self._step = 0
        self._memory = PeakMemory(network.device, emit)
        self._saved_at = time.monotonic()
        self._started = time.time()

    def resume(self, path: Path) -> None:
        """Resume from the state at `path`. Raises BrokenStateError."""
        progress, tensors = load_state(path, self._fingerprint())
        bank = self._network.bank
        with torch.no_grad():
            bank.weights.copy_(tensors["weights"])
            if self._ema is not None:
                self._ema.weights.copy_(tensors["ema"])
        bank.refresh()
        self._updater.load(tensors["updater"])
        self._started = float(tensors["started"])
        self._step = progress.step
        self._losses.epoch_sum = progress.epoch_loss_sum
        self._losses.epoch_count = progress.epoch_loss_count

    def encode_captions(self, on_caption: Callable[[int, int], None]) -> bool:
        """Encode all captions now and release the text encoders, where captions never change and
        the encoders are not trained. Returns whether that was done."""
        fixed = fixed_captions(self._job)
        if self._pass.captions is None or fixed is None:
            return False
        self._pass.captions.fill(fixed, on_caption)
        self._network.texts.release()
        return True

    def capture_graphs(self, backend: Backend | None = None) -> None:
        """Capture CUDA graphs of the job's passes, if it has `cuda_graphs`, before the first step.

        Where they cannot be captured, passes run without, and an event reports the reason. Raises
        the error of memory that ran out.
        """
        if not self._job.cuda_graphs:
            return
        device = self._network.device
        reason = None if backend else reason_against(self._job, device)
        if reason is not None:
            self._report_no_graphs(reason)
            return
        started, backend = time.monotonic(), backend or CudaBackend(device)
        self._emit(Phase(name="capturing", detail="CUDA graphs, one for each shape of a pass"))
        graphed = GraphedPass(self._pass, self._network.bank, backend)
        examples = map(self._pass.inputs, self._feed.examples(MOST_GRAPHS))
        try:
            number = graphed.prepare(
                examples, accumulates=self._job.gradient_accumulation_steps > 1
            )
        except GraphError as error:
            self._report_no_graphs(msg("the capture failed: {error}", error=error))
            return
        self._run_pass = graphed
        self._memory.graph_bytes = getattr(backend, "peak_bytes", 0)
        seconds = time.monotonic() - started
        self._emit(Phase(name="capturing", detail=f"{number} CUDA graphs took {seconds:.0f} s"))

    def _report_no_graphs(self, reason: Message) -> None:
        text = msg("trained without CUDA graphs: {reason}", reason=reason)
        self._emit(Warned(text=text, level="note"))

    def close(self) -> None:
        self._feed.close()

    def run(self, stop: StopRequest) -> bool:
        """Train the remaining steps; False where the run was stopped before the last one.

        Raises NotFiniteError, or torch's OutOfMemoryError.
        """
        first = self._step
        while self._step < self._schedule.num_steps:
            if self._job.torch_compile and self._step == first:
                self._compiling_step()
            else:
                self._one_step()
            self._memory.after_step(self._step)
            self._validate()
            stopping = self._should_stop(stop)
            self._save_what_is_due(stopping)
            if stopping and self._step < self._schedule.num_steps:
                self._memory.report(self._step)
                return False
        self._losses.flush()
        self._memory.report(self._step)
        self.save_weights(final=True)
        if self._job.save_state:
            self.save_state()
        return True

    def validation_loss(self, validation: Validation) -> float:
        """The loss of the network, as it is now, on the samples of `validation`."""
        return validation.loss(self._pass.predict)

    def final_path(self) -> Path:
        return Path(self._job.output_dir) / f"{self._job.output_name}.safetensors"

    @property
    def step(self) -> int:
        return self._step

    # One step

    def _compiling_step(self) -> None:
        """The first step of a compiled network; events report the compilation and its time."""
        self._emit(Phase(name="compiling", detail="the U-Net's blocks, for each size of picture"))
        started = time.monotonic()
        self._one_step()
        if self._network.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.monotonic() - started
        self._emit(Phase(name="compiling", detail=f"the first step took {seconds:.0f} s with it"))

    def _one_step(self) -> None:
        bank, number = self._network.bank, self._step
        passes = self._feed.passes(number)
        loss = torch.zeros((), device=self._network.device)
        for part_index, each in enumerate(passes):
            if each.samples is None:
                bank.skip_pass(first=part_index == 0)
                continue
            if self._seeds_passes:
                # Dropouts use torch's global generators; seeded here, a resumed run has the same.
                seed = seed_of(self._job.seed, "pass", number, part_index, self._processes.rank)
                torch.manual_seed(seed)
            inputs = self._pass.inputs(each.samples)
            bank.begin_pass(first=part_index == 0, num_samples=len(each.samples.captions))
            loss += self._run_pass(inputs)
            bank.end_pass(first=part_index == 0)
        self._processes.sum(bank.grads)
        self._processes.sum(loss)
        rates = self._updater.rates(number)
        self._updater.step(number)
        self._step += 1
        if self._ema is not None:
            self._ema.update(bank.weights, self._step)
        self._losses.add(self._step, loss, rates, sum(each.num_images for each in passes))

    def _validate(self) -> None:
        """Report the loss on held-out pictures where an epoch has just ended and it is due."""
        epoch, rest = divmod(self._step, self._schedule.steps_per_epoch)
        ended = rest == 0 or self._step == self._schedule.num_steps
        due = _due(epoch, self._job.validate_every_n_epochs) or rest != 0
        if self.validation is None or not ended or not due or not self._processes.is_main:
            return
        self._losses.flush()
        loss = self.validation.loss(self._pass.predict)
        number = len(self._job.validation_items)
        self._emit(Validated(step=self._step, epoch=epoch, loss=loss, num_images=number))

    # Saving

    def _should_stop(self, stop: StopRequest) -> bool:
        at_epoch_end = self._step % self._schedule.steps_per_epoch == 0
        if self._processes.count > 1 and self._step % _STOP_INTERVAL and not at_epoch_end:
            return False
        return self._processes.any(stop.requested(at_epoch_end=at_epoch_end))

    def _save_what_is_due(self, stopping: bool) -> None:
        job, step = self._job, self._step
        if step == self._schedule.num_steps:
            return
        epoch, rest = divmod(step, self._schedule.steps_per_epoch)
        by_epoch = rest == 0 and _due(epoch, job.save_every_n_epochs)
        by_step = _due(step, job.save_every_n_steps)
        if by_epoch or by_step or stopping:
            self._losses.flush()
            name = f"{epoch:06d}" if by_epoch or (stopping and rest == 0) else f"step{step:08d}"
            self.save_weights(name)
        minutes = job.save_state_every_minutes
        late = minutes is not None and time.monotonic() - self._saved_at > minutes * 60
        if self._processes.count > 1:
            # `any` is collective: every process has to call it in the same step.
            late = step % _STOP_INTERVAL == 0 and self._processes.any(late)
        beside = job.save_state and (by_epoch or by_step)
        if stopping or beside or late or _due(step, job.save_state_every_n_steps):
            self.save_state()

    def save_weights(self, name: str = "", *, final: bool = False) -> None:
        """Write the LoRA file: the final one, or that of an epoch or step (`name`). The moving
        average's is written first, so that both exist when the event names them."""
        if not self._processes.is_main:
            return
        job = self._job
        path = self.final_path()
        if name:
            path = path.with_name(f"{job.output_name}-{name}.safetensors")
        epoch = -(-self._step // self._schedule.steps_per_epoch)
        average = ""
        if self._ema is not None:
            average = str(ema_path(path))
            self._write(ema_path(path), epoch, self._ema.weights)
        self._write(path, epoch, self._network.bank.weights)
        if final:
            self._emit(Rounded(lost=lost_in_saving(self._network.bank, job.save_precision)))
        self._emit(
            Checkpoint(path=str(path), step=self._step, epoch=epoch, final=final, ema=average)
        )

    def _write(self, path: Path, epoch: int, weights: Tensor) -> None:
        job, now = self._job, time.time()
        tensors = lora_tensors(self._network.bank, job.save_precision, weights)
        velocity = self._noise.predicts_velocity
        training = training_metadata(
            job,
            self._schedule,
            velocity=velocity,
            started=self._started,
            num_processes=self._processes.count,
        )
        metadata = file_metadata(
            job, training, tensors, step=self._step, epoch=epoch, now=now, velocity=velocity
        )
        write_lora(path, tensors, metadata)

    def save_state(self) -> None:
        """Write a state of the current step and drop those that are too old. Collective."""
        self._losses.flush()
        if self._processes.is_main:
            folder = Path(self._job.state_dir)
            progress = Progress(
                step=self._step,
                epoch_loss_sum=self._losses.epoch_sum,
                epoch_loss_count=self._losses.epoch_count,
            )
            tensors: dict[str, Any] = {
                "weights": self._network.bank.weights.cpu(),
                "updater": self._updater.state(),
                "started": self._started,
            }
            if self._ema is not None:
                tensors["ema"] = self._ema.weights.cpu()
            path = save_state(folder, progress, tensors, self._fingerprint())
            drop_old_states(folder, self._job.keep_states)
            epoch = -(-self._step // self._schedule.steps_per_epoch)
            self._emit(StateSaved(path=str(path), step=self._step, epoch=epoch))
        self._saved_at = time.monotonic()
        self._processes.wait()

    def _fingerprint(self) -> str:
        """A digest of what must be equal in a state and in the job that resumes from it: modules,
        optimizer, the layout of the flat tensors, whether there is a moving average."""
        specs = [repr(spec) for spec in self._network.bank.specs()]
        layout = ["in blocks"] if self._network.bank.small_below else []
        average = ["ema"] if self._ema is not None else []
        described = "\n".join([*specs, self._job.optimizer_type.lower(), *layout, *average])
        return hashlib.sha256(described.encode()).hexdigest()[:16]


def _due(count: int, every: int | None) -> bool:
    return every is not None and every > 0 and count > 0 and count % every == 0
