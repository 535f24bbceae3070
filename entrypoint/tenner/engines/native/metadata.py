"""The metadata of a LoRA file: `ss_*` as sd-scripts writes them, `modelspec.*`, hashes.

They have no paths and no user names: of a base model and a folder only the last part. The hashes
are those of A1111's tools (`sshs_model_hash` is the SHA-256 of the tensors' bytes,
`sshs_legacy_hash` the first eight digits of a SHA-256 of 64 KiB at 1 MiB).
"""
# pyright: reportUnknownMemberType=false

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from tenner.core.train_job import TrainJob, conv_alpha_of
from tenner.engines.native.batches import Schedule, buckets_of, repeats_of

_ARCHITECTURE = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
}
_VERSION = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def training_metadata(
    job: TrainJob, schedule: Schedule, *, velocity: bool, started: float, num_processes: int
) -> dict[str, str]:
    """The entries that stay the same over a run, as strings."""
    items = [item for item in job.items if not item.is_reg]
    repeats = repeats_of(job.items)
    counted = sum(times for times, item in zip(repeats, job.items, strict=True) if not item.is_reg)
    version = _VERSION[job.family] + ("_v" if velocity and job.family == "sd2" else "")
    found: dict[str, Any] = {
        "ss_session_id": int.from_bytes(
            hashlib.sha256(f"{job.output_name}{started}".encode()).digest()[:4], "big"
        ),
        "ss_training_started_at": started,
        "ss_output_name": job.output_name,
        "ss_learning_rate": job.learning_rate,
        "ss_text_encoder_lr": job.text_encoder_lr and job.text_encoder_lr[0],
        "ss_unet_lr": job.unet_lr,
        "ss_num_train_images": counted,
        "ss_num_reg_images": sum(repeats) - counted,
        "ss_num_batches_per_epoch": schedule.batches_per_epoch,
        "ss_num_epochs": schedule.num_epochs,
        "ss_gradient_checkpointing": job.gradient_checkpointing,
        "ss_gradient_accumulation_steps": job.gradient_accumulation_steps,
        "ss_max_train_steps": schedule.num_steps,
        "ss_lr_warmup_steps": job.lr_warmup_steps,
        "ss_lr_scheduler": job.lr_scheduler,
        "ss_network_module": "networks.lora",
        "ss_network_dim": job.network_dim,
        "ss_network_alpha": job.network_alpha,
        "ss_network_dropout": job.network_dropout,
        "ss_mixed_precision": job.mixed_precision,
        "ss_full_fp16": False,
        "ss_v2": job.family == "sd2",
        "ss_base_model_version": version,
        "ss_clip_skip": job.clip_skip,
        "ss_max_token_length": None if job.max_token_length == 75 else job.max_token_length,
        "ss_cache_latents": True,
        "ss_seed": job.seed,
        "ss_lowram": False,
        "ss_noise_offset": job.noise_offset,
        "ss_multires_noise_iterations": job.multires_noise_iterations,
        "ss_multires_noise_discount": job.multires_noise_discount,
        "ss_adaptive_noise_scale": job.adaptive_noise_scale,
        "ss_zero_terminal_snr": bool(job.zero_terminal_snr),
        "ss_training_comment": job.training_comment,
        "ss_optimizer": job.optimizer_type,
        "ss_max_grad_norm": job.max_grad_norm,
        "ss_caption_dropout_rate": job.caption_dropout_rate,
        "ss_caption_dropout_every_n_epochs": job.caption_dropout_every_n_epochs,
        "ss_caption_tag_dropout_rate": job.caption_tag_dropout_rate,
        "ss_prior_loss_weight": job.prior_loss_weight,
        "ss_min_snr_gamma": job.min_snr_gamma,
        "ss_ip_noise_gamma": job.ip_noise_gamma,
        "ss_debiased_estimation": job.debiased_estimation_loss,
        "ss_batch_size_per_device": job.train_batch_size,
        "ss_total_batch_size": job.train_batch_size
        * num_processes
        * job.gradient_accumulation_steps,
        "ss_resolution": f"({job.resolution[0]}, {job.resolution[1]})",
        "ss_color_aug": False,
        "ss_flip_aug": job.flip_aug,
        "ss_random_crop": any(item.random_crop for item in items),
        "ss_shuffle_caption": job.shuffle_caption,
        "ss_keep_tokens": job.keep_tokens,
        "ss_enable_bucket": len(buckets_of(job.items)) > 1,
        "ss_dataset_dirs": json.dumps(_folders(job, reg=False)),
        "ss_reg_dataset_dirs": json.dumps(_folders(job, reg=True)),
        "ss_tag_frequency": json.dumps(_tag_frequency(job), ensure_ascii=False),
        "ss_bucket_info": json.dumps(_bucket_info(job)),
        "ss_sd_model_name": job.base_name or Path(job.base).name,
    }
    if job.conv_dim is not None:
        alpha = conv_alpha_of(job.conv_dim, job.conv_alpha)
        network = {"conv_dim": str(job.conv_dim), "conv_alpha": str(alpha)}
        found["ss_network_args"] = json.dumps(network)
    if job.gradient_checkpointing and job.checkpointed_blocks is not None:
        found["ss_checkpointed_blocks"] = job.checkpointed_blocks
    if job.base_sha256:
        found["ss_new_sd_model_hash"] = job.base_sha256
    return {name: str(value) for name, value in found.items()}


def file_metadata(
    job: TrainJob,
    training: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    *,
    step: int,
    epoch: int,
    now: float,
    velocity: bool,
) -> dict[str, str]:
    """All entries of one file."""
    found = dict(training) | {
        "ss_steps": str(step),
        "ss_epoch": str(epoch),
        "ss_training_finished_at": str(now),
    }
    if job.no_metadata:
        minimal = ("ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim")
        minimal += ("ss_network_alpha", "ss_network_args")
        found = {name: value for name, value in found.items() if name in minimal}
    found |= _model_spec(job, now, velocity) | job.metadata
    content = save(
        dict(tensors), {name: value for name, value in found.items() if name.startswith("ss_")}
    )
    start = 8 + int.from_bytes(content[:8], "little")
    found["sshs_model_hash"] = hashlib.sha256(memoryview(content)[start:]).hexdigest()
    legacy = hashlib.sha256(memoryview(content)[0x100000:0x110000]).hexdigest()
    found["sshs_legacy_hash"] = legacy[:8]
    return found


def _model_spec(job: TrainJob, now: float, velocity: bool) -> dict[str, str]:
    """Entries after Stability AI's ModelSpec 1.0.1."""
    architecture = _ARCHITECTURE[job.family]
    if job.family == "sd2" and velocity:
        architecture = "stable-diffusion-v2-768-v"
    implementation = "diffusers"
    if job.family == "sdxl":
        implementation = "https://github.com/Stability-AI/generative-models"
    found = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": implementation,
        "modelspec.title": job.output_name,
        "modelspec.resolution": f"{job.resolution[0]}x{job.resolution[1]}",
        "modelspec.date": datetime.fromtimestamp(int(now), UTC).isoformat(),
        "modelspec.prediction_type": "v" if velocity else "epsilon",
    }
    if job.clip_skip is not None:
        found["modelspec.encoder_layer"] = str(job.clip_skip)
    return found


def _folders(job: TrainJob, *, reg: bool) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for item in job.items:
        if item.is_reg == reg:
            entry = found.setdefault(
                item.folder or "images", {"n_repeats": item.num_repeats, "img_count": 0}
            )
            entry["img_count"] += 1
    return found


def _tag_frequency(job: TrainJob) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for item in job.items:
        tags = (tag.strip().lower() for tag in item.caption.split(","))
        counter = found.setdefault(item.folder or "images", Counter())
        counter.update(tag for tag in tags if tag)
    return {folder: dict(counter) for folder, counter in found.items()}


def _bucket_info(job: TrainJob) -> dict[str, Any]:
    buckets = {
        str(index): {"resolution": list(size), "count": len(members)}
        for index, (size, members) in enumerate(buckets_of(job.items).items())
    }
    return {"buckets": buckets}
