"""Whether a base predicts noise or velocity: `python -m …native.prediction_check JOB`.

It predicts for the job's held-out pictures at high noise. Prints three `validated` events: the
mean squared error of the prediction against the noise, against v, and that of zeros against v. No
weights are changed and nothing is written.
"""
# pyright: reportUnknownMemberType=false

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tenner.core.events import Validated
from tenner.core.train_job import TrainJob, read_job
from tenner.engines.native.batches import schedule_of
from tenner.engines.native.latents import encode_all, vae_fingerprint
from tenner.engines.native.load import load_base, load_vae, vae_files
from tenner.engines.native.loop import Trainer
from tenner.engines.native.network import build_network
from tenner.engines.native.noise import NoiseSchedule
from tenner.engines.native.processes import join_processes
from tenner.engines.native.progress import EventWriter
from tenner.engines.native.validation import Validation


def main(path: Path) -> None:
    """Check the base of the job at `path`, whose `validation_items` are the pictures."""
    processes, emit = join_processes(), EventWriter(silent=False)
    job = read_job(path)
    if job.num_threads:
        torch.set_num_threads(job.num_threads)
    base = load_base(job)
    pictures = replace(job, items=job.validation_items)
    name = vae_fingerprint(vae_files(base))
    latents = encode_all(pictures, lambda: load_vae(base), name, processes.device, _in_silence)
    views = [latents.pick(number, 0) for number in range(len(pictures.items))]
    network = build_network(job, base, processes.device)
    noise = NoiseSchedule(job, base.scheduler)
    trainer = Trainer(job, network, noise, latents, schedule_of(job, 1), processes, emit)

    def validation(*, v: bool) -> Validation:
        check_job: TrainJob = replace(job, v_parameterization=v, zero_terminal_snr=False)
        return Validation(check_job, network, NoiseSchedule(check_job, base.scheduler), views)

    for loss in (
        trainer.validation_loss(validation(v=False)),
        trainer.validation_loss(validation(v=True)),
        validation(v=True).loss(_nothing),
    ):
        emit(Validated(step=0, epoch=0, loss=loss, num_images=len(views)))


def _nothing(noisy: Tensor, timesteps: Tensor, captions: Sequence[str], sizes: Tensor) -> Tensor:
    del timesteps, captions, sizes
    return torch.zeros_like(noisy)


def _in_silence(done: int, total: int) -> None:
    del done, total


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # torch's teardown takes a second
