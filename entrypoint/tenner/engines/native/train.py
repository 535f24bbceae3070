"""The trainer's process: `python -m tenner.engines.native.train JOB.json`.

Reads the job, prints events, and ends with an `EngineExit`. Models are loaded in the order that
needs the least memory: the VAE, which is freed after the latents, then U-Net and text encoders.
"""
# pyright: reportUnknownMemberType=false

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from tenner.core.disk_errors import disk_failure, is_disk_trouble
from tenner.core.events import Done, Failed, FailureKind, Phase
from tenner.core.memory_errors import is_out_of_memory
from tenner.core.messages import msg
from tenner.core.train_job import TrainJob, read_job
from tenner.engines.native.batches import schedule_of
from tenner.engines.native.cache import CachedBase
from tenner.engines.native.engine import EngineExit
from tenner.engines.native.latents import LatentCache, NoPictureError, encode_all, vae_fingerprint
from tenner.engines.native.load import BaseModel, BaseModelError, load_base, load_vae, vae_files
from tenner.engines.native.loop import StopRequest, Trainer
from tenner.engines.native.lora_file import LoraFileError
from tenner.engines.native.network import build_network
from tenner.engines.native.noise import NoiseSchedule
from tenner.engines.native.optimizers import OptimizerError
from tenner.engines.native.processes import Processes, join_processes
from tenner.engines.native.progress import EventWriter, NotFiniteError
from tenner.engines.native.state import BrokenStateError
from tenner.engines.native.tensorboard_log import logged
from tenner.engines.native.validation import Validation

_CAPTIONS_BETWEEN_EVENTS = 50


def main(arguments: list[str], cached: CachedBase | None = None) -> int:
    """Do the job whose file is the only argument; returns an `EngineExit`.

    `cached` are the frozen tensors of a process that does several jobs.
    """
    if len(arguments) != 1:
        print("usage: python -m tenner.engines.native.train JOB.json", file=sys.stderr)
        return EngineExit.JOB
    processes = join_processes()
    emit = EventWriter(silent=not processes.is_main)
    try:
        job = read_job(Path(arguments[0]))
    except (OSError, ValueError, TypeError) as error:
        return _failed(
            emit, EngineExit.JOB, "other", msg("the job cannot be read: {error}", error=error)
        )
    try:
        return _train(job, processes, emit, cached)
    except _KNOWN as error:
        return _explain(emit, job, error)
    except (OSError, MemoryError, RuntimeError, SafetensorError) as error:
        if is_disk_trouble(error):
            found = disk_failure(error, Path(job.output_dir))
            return _failed(emit, EngineExit.DISK, "disk", found.text, found.fix)
        if not _is_out_of_memory(error):
            raise
        return _out_of_memory(emit, job, error)
    finally:
        processes.close()


def _train(
    job: TrainJob, processes: Processes, emit: EventWriter, cached: CachedBase | None
) -> int:
    stop = StopRequest(job.stop_file)
    _set_backends(job)
    schedule = schedule_of(job, processes.count)
    emit(Phase(name="loading", detail="the base model"))
    base = load_base(job)
    everything = replace(job, items=(*job.items, *job.validation_items))
    latents = _encode(everything, base, processes, emit)
    network = build_network(job, base, processes.device, cached)
    noise = NoiseSchedule(job, base.scheduler)
    del base
    trainer = Trainer(job, network, noise, latents, schedule, processes, emit)
    if job.validation_items:
        views = [
            latents.pick(len(job.items) + each, 0) for each in range(len(job.validation_items))
        ]
        trainer.validation = Validation(job, network, noise, views)
    _encode_captions(trainer, processes, emit, cached)
    if job.resume:
        trainer.resume(Path(job.resume))
    trainer.capture_graphs()
    emit(Phase(name="training", done=trainer.step, total=schedule.num_steps))
    try:
        with logged(job.log_dir, emit, first_step=trainer.step + 1):
            finished = trainer.run(stop)
    finally:
        trainer.close()
    if finished:
        emit(Done(path=str(trainer.final_path()), step=trainer.step))
        return EngineExit.DONE
    return EngineExit.STOPPED if stop.by_signal else EngineExit.DONE


def _encode(job: TrainJob, base: BaseModel, processes: Processes, emit: EventWriter) -> LatentCache:
    """All latents. The main process makes them first, the others read its cache on the disk."""

    def progress(done: int, total: int) -> None:
        emit(Phase(name="caching latents", done=done, total=total))

    if not processes.is_main:
        processes.wait()
    name = vae_fingerprint(vae_files(base))
    found = encode_all(job, lambda: load_vae(base), name, processes.device, progress)
    if processes.is_main:
        processes.wait()
    if processes.device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _encode_captions(
    trainer: Trainer, processes: Processes, emit: EventWriter, cached: CachedBase | None
) -> None:
    """Encode captions that never change before the training, to free the text encoders' memory."""

    def progress(done: int, total: int) -> None:
        if done == total or done % _CAPTIONS_BETWEEN_EVENTS == 0:
            emit(Phase(name="caching captions", done=done, total=total))

    if trainer.encode_captions(progress) and processes.device.type == "cuda":
        if cached is not None:
            cached.drop_texts()
        torch.cuda.empty_cache()


def _set_backends(job: TrainJob) -> None:
    if job.num_threads:
        torch.set_num_threads(job.num_threads)
    # TF32 for products and convolutions of fp32: several times faster on cards since Ampere, with
    # 10 bits of mantissa, more than bf16's 7. A CPU ignores it.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    # Try the algorithms of each convolution once: a run has few shapes, one or two for each bucket.
    torch.backends.cudnn.benchmark = True


_KNOWN = (
    BaseModelError,
    BrokenStateError,
    LoraFileError,
    NoPictureError,
    NotFiniteError,
    OptimizerError,
    ValueError,
)


def _explain(emit: EventWriter, job: TrainJob, error: Exception) -> int:
    """Report an error of `_KNOWN` as a `failed` event; returns its exit code."""
    text = str(error)
    if isinstance(error, BaseModelError):
        return _failed(emit, EngineExit.BASE_MODEL, "base_model", text, error.fix)
    if isinstance(error, OptimizerError):
        return _failed(emit, EngineExit.JOB, "other", text, error.fix)
    if isinstance(error, BrokenStateError):
        fix = msg("resume from the state before it")
        return _failed(emit, EngineExit.BROKEN_STATE, "broken_state", text, fix)
    if isinstance(error, NotFiniteError):
        fix = msg("lower the learning rate, or use bf16 instead of fp16")
        return _failed(emit, EngineExit.NOT_FINITE, "nan", text, fix)
    if isinstance(error, LoraFileError):
        fix = msg("use the network_dim and conv_dim of the file, or drop network_weights")
        return _failed(emit, EngineExit.JOB, "other", text, fix)
    if isinstance(error, NoPictureError) or not job.items:
        return _failed(
            emit, EngineExit.NO_DATA, "no_data", text, msg("replace or remove the image")
        )
    return _failed(emit, EngineExit.JOB, "other", text)


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return (
        isinstance(error, MemoryError) or is_out_of_memory(text) or "out of memory" in text.lower()
    )


def _out_of_memory(emit: EventWriter, job: TrainJob, error: BaseException) -> int:
    if torch.cuda.is_available():
        peak = msg(
            ", {max_memory_allocated} GiB at the peak",
            max_memory_allocated=f"{torch.cuda.max_memory_allocated() / 2**30:.2f}",
        )
    else:
        peak = ""
    reason = next(iter(str(error).splitlines()), "") or msg("the system gave no reason")
    text = msg(
        "out of memory at batch {train_batch_size}{peak}: {reason}",
        train_batch_size=job.train_batch_size,
        peak=peak,
        reason=reason,
    )
    fix = msg("a smaller train_batch_size, or gradient_checkpointing = true")
    return _failed(emit, EngineExit.OUT_OF_MEMORY, "oom", text, fix)


def _failed(
    emit: EventWriter, code: EngineExit, kind: FailureKind, text: str, fix: str = ""
) -> int:
    emit(Failed(kind=kind, text=text, fix=fix))
    return code


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # all files are closed; torch's teardown takes a second
