"""LoRA weights on disk: the names, shapes and types that other tools read."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from tenner.core.errors import SettingsError
from tenner.core.files import write_atomically
from tenner.core.messages import msg
from tenner.core.safetensors_head import read_safetensors_header
from tenner.core.train_job import SavePrecision
from tenner.engines.native.lora import LoraBank

_DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class LoraFileError(Exception):
    """A LoRA file cannot be read, or does not fit the network."""


def lora_tensors(
    bank: LoraBank, precision: SavePrecision, flat: Tensor | None = None
) -> dict[str, Tensor]:
    """The file's tensors: alpha, lora_down.weight and lora_up.weight of each module. `flat` are
    other values of the bank's weights."""
    dtype = _DTYPES[precision]
    weights = (bank.weights if flat is None else flat).detach().to("cpu", dtype, copy=True)
    found: dict[str, Tensor] = {}
    for spec, down, up in bank.named_views(weights):
        found[f"{spec.name}.alpha"] = torch.tensor(spec.alpha, dtype=dtype)
        found[f"{spec.name}.lora_down.weight"] = down.clone()
        found[f"{spec.name}.lora_up.weight"] = up.clone()
    return dict(sorted(found.items()))


@torch.no_grad()
def lost_in_saving(bank: LoraBank, precision: SavePrecision) -> dict[str, float]:
    """The relative error (by the 2-norm) of each segment's `lora_up` in the file's precision: 0 in
    fp32, 1 where all values become zero. Segments that are zero anyway are left out."""
    squares: dict[str, list[float]] = {}
    for segment, up in bank.ups():
        whole = up.double()
        away = whole - up.to(_DTYPES[precision]).double()
        sums = squares.setdefault(segment, [0.0, 0.0])
        sums[0] += float(away.square().sum())
        sums[1] += float(whole.square().sum())
    return {segment: (away / whole) ** 0.5 for segment, (away, whole) in squares.items() if whole}


def write_lora(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write the file whole or not at all."""
    write_atomically(path, save(tensors, metadata))


@torch.no_grad()
def read_lora(path: Path, bank: LoraBank) -> None:
    """Start from a LoRA file (`network_weights`). Raises LoraFileError."""
    try:
        read_safetensors_header(path)
        found = load_file(path)
    except SettingsError as error:
        raise LoraFileError(error.problems[0].text) from error
    except (OSError, SafetensorError) as error:
        raise LoraFileError(
            msg("{name} cannot be read: {error}", name=path.name, error=error)
        ) from error
    matched = 0
    for spec, down, up in bank.named_views(bank.weights):
        for name, view in (("lora_down", down), ("lora_up", up)):
            value = found.get(f"{spec.name}.{name}.weight")
            if value is None:
                continue
            if value.shape != view.shape:
                raise LoraFileError(
                    msg(
                        "{name}: {name2}.{name3} is {shape}, the network needs {shape2}",
                        name=path.name,
                        name2=spec.name,
                        name3=name,
                        shape=tuple(value.shape),
                        shape2=tuple(view.shape),
                    )
                )
            view.copy_(value)
            matched += 1
    if not matched:
        raise LoraFileError(msg("{name} has no module of this network", name=path.name))
    bank.refresh()
