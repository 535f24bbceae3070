"""Which optimizer updates the weights, each from its own library.

AdamW, Adam, SGD and Lion are elementwise, so they get one flat tensor for each learning rate: a
step is then a handful of kernels instead of hundreds. AdamW8bit scales its states in blocks of 256
numbers, and gets flat tensors in which no block has numbers of two matrices, so that its result is
that of separate matrices. Optimizers that use the shape or the norm of a tensor (Adafactor,
Prodigy) get the modules' own matrices.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tenner.core.messages import msg
from tenner.core.train_job import TrainJob
from tenner.engines.native.lora import BLOCK, LoraBank


class OptimizerError(Exception):
    """The optimizer cannot be made: `text` is the reason, `fix` what to do."""

    def __init__(self, text: str, fix: str) -> None:
        super().__init__(text)
        self.text = text
        self.fix = fix


Groups = list[dict[str, Any]]
FLAT = frozenset({"adamw", "adam", "sgd", "sgdnesterov", "lion"})


def base_rates(job: TrainJob) -> dict[str, float]:
    """The learning rate of each segment, before the schedule."""
    text = job.text_encoder_lr or (job.learning_rate,)
    unet = job.learning_rate if job.unet_lr is None else job.unet_lr
    return {"text_encoder": text[0], "text_encoder_2": text[-1], "unet": unet}


def make_optimizer(job: TrainJob, bank: LoraBank, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer over the bank's weights, one group for each segment, named in `segment`.

    Raises OptimizerError.
    """
    kind = job.optimizer_type.lower()
    if kind not in _MAKERS:
        raise OptimizerError(
            msg(
                "the built-in engine has no optimizer {optimizer_type}",
                optimizer_type=repr(job.optimizer_type),
            ),
            fix=msg("use one of {names}", names=", ".join(_NAMES)),
        )
    groups = _groups(kind, job, bank)
    try:
        return _MAKERS[kind](groups, dict(job.optimizer_args), device)
    except ImportError as error:
        raise OptimizerError(
            msg(
                "{optimizer_type} needs a package that is not installed: {name}",
                optimizer_type=job.optimizer_type,
                name=error.name or error,
            ),
            fix=msg("install it, or use AdamW"),
        ) from error
    except (TypeError, ValueError) as error:
        raise OptimizerError(
            msg(
                "{optimizer_type} does not take these optimizer_args: {error}",
                optimizer_type=job.optimizer_type,
                error=error,
            ),
            fix=msg("correct or drop optimizer_args"),
        ) from error


def small_below(job: TrainJob) -> int | None:
    """The size below which a matrix has states of 32 bits with AdamW8bit; None for others.

    4096 is bitsandbytes' own default.
    """
    if job.optimizer_type.lower() != "adamw8bit":
        return None
    return int(job.optimizer_args.get("min_8bit_size", 4096))


def _groups(kind: str, job: TrainJob, bank: LoraBank) -> Groups:
    if kind in FLAT:
        return _flat_groups(job, bank)
    return _block_groups(job, bank) if bank.small_below else _matrix_groups(job, bank)


def _flat_groups(job: TrainJob, bank: LoraBank) -> Groups:
    rates, groups = base_rates(job), []
    for segment, span in bank.segments().items():
        parameter = nn.Parameter(bank.weights[span])
        parameter.grad = bank.grads[span]
        groups.append({"params": [parameter], "lr": rates[segment], "segment": segment})
    return groups


def _matrix_groups(job: TrainJob, bank: LoraBank) -> Groups:
    rates, groups = base_rates(job), []
    views = zip(bank.named_views(bank.weights), bank.named_views(bank.grads), strict=True)
    members: dict[str, list[nn.Parameter]] = {segment: [] for segment in bank.segments()}
    for (spec, *weights), (_, *grads) in views:
        for weight, grad in zip(weights, grads, strict=True):
            parameter = nn.Parameter(weight)
            parameter.grad = grad
            members[_segment_of(spec.name)].append(parameter)
    for segment, parameters in members.items():
        groups.append({"params": parameters, "lr": rates[segment], "segment": segment})
    return groups


@dataclass
class _Chunk:
    """Adjacent matrices, from `start` to `end` in the flat tensors, updated as one tensor."""

    segment: str
    start: int
    end: int
    is_small: bool


def _block_groups(job: TrainJob, bank: LoraBank) -> Groups:
    """For each segment a group of large matrices, in 8 bits, and one of small ones, in 32."""
    rates, groups = base_rates(job), []
    chunks = list(_chunks(bank))
    for segment in bank.segments():
        for is_small in (False, True):
            parameters: list[nn.Parameter] = []
            for each in chunks:
                if (each.segment, each.is_small) == (segment, is_small):
                    parameter = nn.Parameter(bank.weights[each.start : each.end])
                    parameter.grad = bank.grads[each.start : each.end]
                    parameters.append(parameter)
            if parameters:
                group = {"params": parameters, "lr": rates[segment], "segment": segment}
                groups.append(group | ({"state_bits": 32} if is_small else {}))
    return groups


def _chunks(bank: LoraBank) -> Iterator[_Chunk]:
    """Matrices in the order of the flat tensors, joined where no block of an 8-bit state has
    numbers of two of them. The padding between them is zero, and stays zero."""
    current: _Chunk | None = None
    for segment, start, size in bank.matrices():
        is_small = size < (bank.small_below or 0)
        joins = current is not None and (current.segment, current.is_small) == (segment, is_small)
        if current is not None and joins and (is_small or (start - current.start) % BLOCK == 0):
            current.end = start + size
            continue
        if current is not None:
            yield current
        current = _Chunk(segment, start, start + size, is_small)
    if current is not None:
        yield current


def _segment_of(name: str) -> str:
    if name.startswith("lora_te2_"):
        return "text_encoder_2"
    return "text_encoder" if name.startswith("lora_te") else "unet"


def _adamw(groups: Groups, args: dict[str, Any], device: torch.device) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, fused=True, **args)


def _adam(groups: Groups, args: dict[str, Any], device: torch.device) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, fused=True, **args)


def _sgd(groups: Groups, args: dict[str, Any], device: torch.device) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, **args)


def _nesterov(groups: Groups, args: dict[str, Any], device: torch.device) -> torch.optim.Optimizer:
    args = {"momentum": 0.9, **args}
    return torch.optim.SGD(groups, nesterov=True, **args)


def _adamw8bit(groups: Groups, args: dict[str, Any], device: torch.device) -> torch.optim.Optimizer:
    if device.type != "cuda":
        raise OptimizerError(
            msg("AdamW8bit needs an NVIDIA GPU"), fix=msg('use optimizer_type = "AdamW"')
        )
    return flat_adamw8bit(groups, args)


def flat_adamw8bit(groups: Groups, args: dict[str, Any]) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW8bit over flat tensors. Raises ImportError.

    Its own step synchronizes after every tensor; this one does so only with paged states, which
    the card fetches from the host. A group's `state_bits` overrides `optim_bits` for its tensors.
    """
    import bitsandbytes  # pyright: ignore[reportMissingImports]

    class FlatAdamW8bit(bitsandbytes.optim.AdamW8bit):  # pyright: ignore[reportUntypedBaseClass]
        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            config = super().get_config(gindex, pindex, group)
            bits = group.get("state_bits")
            return config if bits is None else {**config, "optim_bits": bits}

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            if self.is_paged:
                return super().step(closure)
            for gindex, group in enumerate(self.param_groups):
                for pindex, parameter in enumerate(group["params"]):
                    if not self.state[parameter]:
                        self.init_state(group, parameter, gindex, pindex)
                    self.update_step(group, parameter, gindex, pindex)
            return None

    return FlatAdamW8bit(groups, **args)


def _lion(groups: Groups, args: dict[str, Any], device: torch.device) -> torch.optim.Optimizer:
    from lion_pytorch import Lion  # pyright: ignore[reportMissingImports]

    return Lion(groups, **args)


def _prodigy(groups: Groups, args: dict[str, Any], device: torch.device) -> torch.optim.Optimizer:
    from prodigyopt import Prodigy  # pyright: ignore[reportMissingImports]

    return Prodigy(groups, **args)


def _adafactor(groups: Groups, args: dict[str, Any], device: torch.device) -> torch.optim.Optimizer:
    """With our schedule instead of its own: relative steps off unless requested by name."""
    from transformers.optimization import Adafactor

    arguments = {"relative_step": False, "scale_parameter": False, "warmup_init": False, **args}
    return Adafactor(groups, **arguments)


_Maker = Callable[[Groups, dict[str, Any], torch.device], torch.optim.Optimizer]
_MAKERS: Mapping[str, _Maker] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "sgdnesterov": _nesterov,
    "adamw8bit": _adamw8bit,
    "lion": _lion,
    "prodigy": _prodigy,
    "adafactor": _adafactor,
}
_NAMES = ("AdamW", "AdamW8bit", "Adam", "Lion", "Prodigy", "Adafactor", "SGD", "SGDNesterov")
