# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
"""Moves a pipeline to the device that draws, as its memory allows."""

from typing import Any

import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from torch.nn.utils import parametrize

from tenner.sample.placement import Placement, placement_of

_LARGEST = 448.0
"""The largest number of float8_e4m3fn."""


def move_to_device(pipe: Any, device: str) -> Placement:
    """Move the pipeline of a transformer, with its LoRAs; returns where its parts lie."""
    if device != "cuda":
        pipe.to(device)
        return Placement(is_whole=True)
    free, _ = torch.cuda.mem_get_info()
    sizes = {name: _num_bytes(part) for name, part in _parts(pipe).items()}
    placement = placement_of(sizes, free, denoiser="transformer")
    place(pipe, torch.device(device), placement)
    return placement


def place(pipe: Any, device: torch.device, placement: Placement) -> None:
    """Move the parts of a pipeline that is on the CPU."""
    if placement.is_8_bit:
        to_8_bits(pipe.transformer)
    if placement.is_whole:
        pipe.to(device)
        return
    hook: Any = None
    order = [each for each in pipe.model_cpu_offload_seq.split("->") if each in _parts(pipe)]
    for name in order:
        part = getattr(pipe, name)
        if name not in placement.streamed:
            part, hook = cpu_offload_with_hook(part, device, prev_module_hook=hook)
            continue
        if hook is not None:  # the part before it leaves the card
            part.register_forward_pre_hook(_leaves(hook))
        cpu_offload(part, device, offload_buffers=len(part._parameters) > 0)


def _leaves(hook: Any) -> Any:
    def leave(*_: Any) -> None:
        hook.offload()

    return leave


def to_8_bits(model: torch.nn.Module) -> None:
    """Keep the weights of the linear layers in 8 bits, each row with its own scale; they are
    widened for each product. LoRAs stay as they are."""
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and "lora_" not in name:
            module.requires_grad_(False)
            parametrize.register_parametrization(module, "weight", _EightBits())


class _EightBits(torch.nn.Module):
    """A weight (out, in) as float8_e4m3fn and a scale (out, 1) of the weight's type."""

    def forward(self, rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return rows.to(scale.dtype) * scale

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        largest = weight.abs().amax(dim=1, keepdim=True).float()
        scale = (largest / _LARGEST).clamp(min=1e-12).to(weight.dtype)
        return (weight.float() / scale.float()).clamp(-_LARGEST, _LARGEST).to(
            torch.float8_e4m3fn
        ), scale


def _parts(pipe: Any) -> dict[str, torch.nn.Module]:
    return {
        name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)
    }


def _num_bytes(part: torch.nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in part.parameters())
