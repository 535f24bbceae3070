# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportMissingImports=false
"""LoHa, LoKr, DoRA and the other kinds of LyCORIS, applied to a pipeline by LyCORIS's own modules.

diffusers does not load these files. A module of the file finds the pipeline's module of the same
name, as sd-scripts calls it: `lora_unet_` and `lora_te_`, `lora_te1_`, … before its path.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tenner.engines.native.unet_config import parse_unet_config
from tenner.engines.native.unet_names import OriginalNames
from tenner.sample.parts import part_tensors


class LycorisNetwork(torch.nn.Module):
    """The modules of a file that a pipeline has. Raises ValueError where LyCORIS is missing."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], targets: Mapping[str, Any]) -> None:
        super().__init__()
        names = sorted({name.partition(".")[0] for name in tensors} & targets.keys())
        found = [(name, _module(tensors, name, targets[name])) for name in names]
        self.modules_by_name = torch.nn.ModuleDict(
            {name: module.eval() for name, module in found if module is not None}
        )
        self._is_on = True
        for name, module in self.modules_by_name.items():
            self._wrap(targets[name], module)

    def _wrap(self, target: Any, module: Any) -> None:
        """In place of the target's `forward`: the network can be switched off without a trace."""
        plain = target.forward

        def forward(*given: Any, **named: Any) -> Any:
            return (module.forward if self._is_on else plain)(*given, **named)

        target.forward = forward

    @property
    def num_modules(self) -> int:
        return len(self.modules_by_name)

    def set_multiplier(self, strength: float) -> None:
        for module in self.modules_by_name.values():
            each: Any = module
            each.multiplier = strength

    def set_enabled(self, is_on: bool) -> None:
        self._is_on = is_on


def read_network(path: Path, targets: Mapping[str, Any]) -> LycorisNetwork:
    """Raises OSError, KeyError, RuntimeError or ValueError where the file is not such a one."""
    return LycorisNetwork(part_tensors(str(path)), targets)


def _module(tensors: Mapping[str, torch.Tensor], name: str, target: torch.nn.Module) -> Any:
    """LyCORIS's module of this name; None where it has no kind for these tensors."""
    try:
        library = importlib.import_module("lycoris.modules")
    except ImportError as error:
        raise ValueError(f"LyCORIS cannot be imported: {error}") from error
    magnitudes = tensors.get(f"{name}.dora_scale")
    if magnitudes is not None and magnitudes.shape[0] > 1:
        magnitudes = None  # of outputs: `make_module` takes them
    if magnitudes is not None:
        tensors = {each: tensors[each] for each in tensors if each != f"{name}.dora_scale"}
    kind, weights = library.get_module(tensors, name)
    if kind is None:
        return None
    if kind.name == "ia3":  # `make_module` has no place for the second of its two tensors
        weight, on_input = weights
        module = kind(name, target, 1.0, train_on_input=bool(on_input))
        module.weight.data.copy_(weight)
        return module
    module = library.make_module(kind, weights, name, target)
    if module is not None and magnitudes is not None:
        module.wd, module.wd_on_out = True, False
        module.dora_norm_dims = module.org_weight.dim() - 1
        module.dora_scale = torch.nn.Parameter(magnitudes.float())
    return module


def unet_targets(pipe: Any) -> dict[str, torch.nn.Module]:
    """The modules of a U-Net's pipeline, by sd-scripts' names."""
    names = _original_names(pipe) if hasattr(pipe, "text_encoder_2") else None
    found = dict(_named("lora_unet", pipe.unet, names))
    encoders = [getattr(pipe, each, None) for each in ("text_encoder", "text_encoder_2")]
    return found | encoder_targets([each for each in encoders if each is not None])


def encoder_targets(encoders: Sequence[torch.nn.Module | None]) -> dict[str, torch.nn.Module]:
    """The modules of text encoders; one alone is `lora_te` or `lora_te1`."""
    found: dict[str, torch.nn.Module] = {}
    for number, encoder in enumerate(encoders, 1):
        for prefix in (f"lora_te{number}", *(("lora_te",) if len(encoders) == 1 else ())):
            if encoder is not None:
                found |= dict(_named(prefix, encoder))
    return found


def transformer_targets(
    transformer: torch.nn.Module, encoders: Sequence[torch.nn.Module | None]
) -> dict[str, torch.nn.Module]:
    """The modules of sd-scripts' own models."""
    return dict(_named("lora_unet", transformer)) | encoder_targets(encoders)


def _original_names(pipe: Any) -> OriginalNames:
    return OriginalNames(parse_unet_config(pipe.unet.config))


def _named(
    prefix: str, model: torch.nn.Module, names: OriginalNames | None = None
) -> Iterator[tuple[str, torch.nn.Module]]:
    is_clip = "CLIP" in type(model).__name__
    for path, module in model.named_modules():
        if names is not None:
            try:
                path = names.of(path)
            except KeyError:
                continue  # a container of its own
        elif is_clip and not path.startswith("text_"):
            path = f"text_model.{path}"  # as transformers called it before version 5
        yield f"{prefix}_{path.replace('.', '_')}", module
