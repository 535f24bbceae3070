"""Builds U-Net, text encoders and LoRA of a job on a device."""
# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tenner.core.messages import msg
from tenner.core.train_job import TrainJob
from tenner.engines.native.cache import CachedBase
from tenner.engines.native.clip import ClipText, parse_clip_config
from tenner.engines.native.dropouts import Dropouts
from tenner.engines.native.load import BaseModel, BaseModelError, TextSource
from tenner.engines.native.lora import LoraBank
from tenner.engines.native.lora_file import LoraFileError, read_lora
from tenner.engines.native.optimizers import base_rates, small_below
from tenner.engines.native.parts import GetTensor, LoraPlan, Parts, uncached
from tenner.engines.native.text import TextEncoders, Tokenizer
from tenner.engines.native.unet import Unet
from tenner.engines.native.unet_config import UnetConfig, parse_unet_config
from tenner.engines.native.unet_names import OriginalNames

_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Network:
    """The models of a job, and the LoRA on them. `dtype` is the precision of all but the LoRA's
    weights; `trains_text` is whether a text encoder has a LoRA."""

    unet: Unet
    texts: TextEncoders
    bank: LoraBank
    device: torch.device
    dtype: torch.dtype
    trains_text: bool
    memory_format: torch.memory_format = torch.channels_last


def build_network(
    job: TrainJob, base: BaseModel, device: torch.device, cached: CachedBase | None = None
) -> Network:
    """The network before its first step: with initial weights, or those of `network_weights`.

    `cached` are the frozen tensors of the base, where the process has loaded it before.

    Raises BaseModelError (the base is not of the family, a tensor is missing) or LoraFileError.
    """
    dtype = _DTYPES[job.mixed_precision]
    bank = LoraBank(small_below(job))
    getter_of = cached.recorder(job, device) if cached else uncached
    try:
        config = parse_unet_config(base.unet_config)
        _check_family(job, config)
        texts = _build_texts(job, base, bank, device, dtype, getter_of)
        unet = _build_unet(job, base, config, bank, device, dtype, getter_of("unet"))
    except (KeyError, ValueError) as error:
        raise BaseModelError(
            msg("the base model does not fit: {error}", error=error),
            fix=msg("use a base model of the family {family}", family=job.family),
        ) from error
    if not list(bank.specs()):
        raise BaseModelError(
            msg("nothing is left to train"), fix=msg("train the U-Net or the text encoder")
        )
    bank.allocate(device, dtype)
    bank.initialise(job.seed)
    if job.network_weights:
        read_lora(Path(job.network_weights), bank)
    _set_recomputation(job, unet, [encoder for _, encoder in texts.encoders])
    if job.torch_compile:
        _compile_blocks(unet)
    return Network(
        unet=unet,
        texts=texts,
        bank=bank,
        device=device,
        dtype=dtype,
        trains_text=any(segment != "unet" for segment in bank.segments()),
        memory_format=_memory_format(job),
    )


def _set_recomputation(job: TrainJob, unet: Unet, encoders: Sequence[ClipText]) -> None:
    """Set what the backward passes recompute. The text encoders' layers are recomputed only if
    all of the U-Net's blocks are, since they free little memory."""
    unet.recompute(job.checkpointed_blocks if job.gradient_checkpointing else 0)
    unet.restores_rng = bool(_dropouts(job))
    for each in encoders:
        each.checkpointing = job.gradient_checkpointing and job.checkpointed_blocks is None
        each.restores_rng = bool(_dropouts(job))


def _memory_format(job: TrainJob) -> torch.memory_format:
    """Channels last unless it is switched off: tokens are then views of the feature maps."""
    return torch.contiguous_format if job.channels_last is False else torch.channels_last


def _check_family(job: TrainJob, config: UnetConfig) -> None:
    if config.is_sdxl != (job.family == "sdxl"):
        raise ValueError(
            msg("its U-Net is SDXL's") if config.is_sdxl else msg("its U-Net is not SDXL's")
        )


def _build_unet(
    job: TrainJob,
    base: BaseModel,
    config: UnetConfig,
    bank: LoraBank,
    device: torch.device,
    dtype: torch.dtype,
    get: GetTensor,
) -> Unet:
    if job.family == "sdxl":
        names = OriginalNames(config)
        name_of: Callable[[str], str] = lambda path: _lora_name("lora_unet", names.of(path))  # noqa: E731
    else:
        name_of = lambda path: _lora_name("lora_unet", path)  # noqa: E731
    plan = _plan(job, bank, "unet", name_of) if _is_trained(job, "unet") else None
    parts = Parts(
        base.unet,
        device=device,
        dtype=dtype,
        channels_last=_memory_format(job) == torch.channels_last,
        plan=plan,
        adapts=lambda name: adapts_unet(name, job.conv_dim is not None),
        get=get,
    )
    return Unet(config, parts)


def adapts_unet(name: str, convolutions: bool) -> bool:
    """Whether the U-Net's module `name` has a LoRA; `convolutions`: residual blocks too."""
    if ".attentions." in name:
        return True
    inner = (".resnets.", ".downsamplers.", ".upsamplers.")
    return convolutions and any(part in name for part in inner)


def _build_texts(
    job: TrainJob,
    base: BaseModel,
    bank: LoraBank,
    device: torch.device,
    dtype: torch.dtype,
    getter_of: Callable[[str], GetTensor],
) -> TextEncoders:
    encoders: list[tuple[Tokenizer, ClipText]] = []
    projection: Tensor | None = None
    for index, source in enumerate(base.texts):
        prefix = f"lora_te{index + 1}" if len(base.texts) > 1 else "lora_te"
        segment = "text_encoder_2" if index else "text_encoder"
        parts = _text_parts(job, source, bank, segment, prefix, device, dtype, getter_of(segment))
        tokenizer = Tokenizer(
            source.tokenizer, job.max_token_length, pad_with_zero=job.family == "sdxl" and index > 0
        )
        encoders.append((tokenizer, ClipText(parse_clip_config(source.config), parts)))
        projection = parts.optional("text_projection.weight")
    return TextEncoders(job.family, encoders, projection, job.clip_skip, device)


def _text_parts(
    job: TrainJob,
    source: TextSource,
    bank: LoraBank,
    segment: str,
    prefix: str,
    device: torch.device,
    dtype: torch.dtype,
    get: GetTensor,
) -> Parts:
    def name_of(path: str) -> str:
        return _lora_name(prefix, f"text_model.{path}")

    plan = _plan(job, bank, segment, name_of) if _is_trained(job, segment) else None
    return Parts(source.tensors, device=device, dtype=dtype, plan=plan, get=get)


def _is_trained(job: TrainJob, segment: str) -> bool:
    """Whether a segment has a LoRA: unless an option leaves it out, or its learning rate is 0 and
    another's is not (SDXL's text encoders have one each)."""
    if segment == "unet":
        left_out = job.network_train_text_encoder_only
    else:
        left_out = job.network_train_unet_only
    rates = base_rates(job)
    return not left_out and (rates[segment] > 0 or not any(rates.values()))


def _plan(job: TrainJob, bank: LoraBank, segment: str, name_of: Callable[[str], str]) -> LoraPlan:
    return LoraPlan(
        bank=bank,
        segment=segment,
        name_of=name_of,
        dim=job.network_dim,
        alpha=job.network_alpha,
        conv_dim=job.conv_dim,
        conv_alpha=job.conv_alpha,
        dropouts=_dropouts(job),
        uses_autograd=job.torch_compile or bool(_dropouts(job)),
    )


def _dropouts(job: TrainJob) -> Dropouts:
    return Dropouts(
        inner=job.network_dropout or 0.0,
        rank=job.rank_dropout or 0.0,
        module=job.module_dropout or 0.0,
    )


def _lora_name(prefix: str, path: str) -> str:
    return f"{prefix}_{path.replace('.', '_')}"


def _compile_blocks(unet: Unet) -> None:
    """Compile the function that runs a transformer block: once for each shape of its input."""
    unet.run_block = torch.compile(unet.run_block, dynamic=False)
    # Widths times buckets; past torch's limit of 8 it would run further shapes uncompiled.
    torch._dynamo.config.cache_size_limit = 64  # pyright: ignore


__all__ = ["LoraFileError", "Network", "build_network"]
