"""Checkpoint files in the original layout of SD 1.x, 2.x and SDXL, read under diffusers' names."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tenner.core.messages import msg
from tenner.engines.native.tensor_file import Renamed, TensorFile
from tenner.engines.native.unet_config import parse_unet_config
from tenner.engines.native.unet_names import OriginalNames
from tenner.engines.native.vae import checkpoint_vae

_UNET = "model.diffusion_model."
_FIRST_TEXT = {
    "sd1": ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."),
    "sdxl": ("conditioner.embedders.0.transformer.text_model.",),
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


class CheckpointFile:
    """One `.safetensors` checkpoint. Raises KeyError or ValueError where a part is missing."""

    def __init__(self, path: Path) -> None:
        self._tensors = TensorFile(path)

    def unet(self, config: Mapping[str, Any]) -> Mapping[str, Tensor]:
        tensors = Renamed.of(self._tensors, _UNET)
        if not tensors:
            raise ValueError(msg("it has no U-Net in checkpoint layout"))
        names = OriginalNames(parse_unet_config(config))
        return Renamed({names.back(name): (tensors, name) for name in tensors})

    def text(self, family: str) -> dict[str, Tensor]:
        """The (first) text encoder by transformers' names without `text_model.`."""
        if family == "sd2":
            return dict(_from_open_clip(dict(self._with_prefix("cond_stage_model.model."))))
        for prefix in _FIRST_TEXT[family]:
            found = dict(self._with_prefix(prefix))
            if found:
                return found
        raise ValueError(msg("it has no text encoder"))

    def second_text(self) -> dict[str, Tensor]:
        found = dict(self._with_prefix("conditioner.embedders.1.model."))
        if not found:
            raise ValueError(msg("it has no second text encoder"))
        return dict(_from_open_clip(found))

    def vae(self) -> Mapping[str, Tensor]:
        """The VAE by diffusers' names; a file of a VAE alone has no prefix."""
        tensors = dict(self._with_prefix("first_stage_model.")) or dict(self._with_prefix(""))
        return checkpoint_vae(tensors)

    def _with_prefix(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        yield from Renamed.of(self._tensors, prefix).items()


def _from_open_clip(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """OpenCLIP's names to transformers'; the joined query-key-value is cut in three."""
    for name, value in tensors.items():
        if name == "positional_embedding":
            yield "embeddings.position_embedding.weight", value
        elif name == "token_embedding.weight":
            yield "embeddings.token_embedding.weight", value
        elif name == "text_projection":
            yield "text_projection.weight", value.t().contiguous()
        elif name.startswith("ln_final."):
            yield name.replace("ln_final", "final_layer_norm"), value
        elif name.startswith("transformer.resblocks."):
            yield from _open_clip_layer(name.removeprefix("transformer.resblocks."), value)


def _open_clip_layer(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    index, part = name.split(".", 1)
    layer = f"encoder.layers.{index}"
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        for letter, piece in zip("qkv", value.chunk(3), strict=True):
            yield f"{layer}.self_attn.{letter}_proj.{kind}", piece
        return
    for theirs, ours in _OPEN_CLIP_LAYER.items():
        if part.startswith(f"{theirs}."):
            yield f"{layer}.{ours}{part[len(theirs) :]}", value
