"""SDXL in full size with random weights as one file, for the tests with the real sd-scripts.

    TRAINER_PYTHON make_random_sdxl.py SD_SCRIPTS_DIR FILE

Names and shapes are those of sd-scripts' own models; the numbers are drawn and written tensor by
tensor (fp16, 6.9 GB), so that it takes little memory.
"""

import json
import math
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Shapes = dict[str, tuple[int, ...]]


def shapes(sd_scripts: Path) -> Shapes:
    """All tensors of the file, by Stability's names."""
    sys.path.insert(0, str(sd_scripts))
    from library import model_util, sdxl_model_util, sdxl_original_unet

    first = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
    second = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
    )
    with init_empty_weights():
        unet = sdxl_original_unet.SdxlUNet2DConditionModel().state_dict()
        text = CLIPTextModel(first).state_dict()
        other = CLIPTextModelWithProjection(second).state_dict()
        vae = AutoencoderKL(**model_util.create_vae_diffusers_config()).state_dict()
    other = {name: value for name, value in other.items() if "position_ids" not in name}
    converted = sdxl_model_util.convert_text_encoder_2_state_dict_to_sdxl(
        other, torch.empty((), device="meta")
    )
    return {
        **_shapes(unet, "model.diffusion_model."),
        **_shapes(text, "conditioner.embedders.0.transformer."),
        **_shapes(converted, "conditioner.embedders.1.model."),
        **_shapes(_vae(model_util, vae), "first_stage_model."),
    }


def _shapes(tensors: Mapping[str, torch.Tensor], prefix: str) -> Shapes:
    return {
        prefix + name: tuple(tensor.shape)
        for name, tensor in tensors.items()
        if "position_ids" not in name
    }


def _vae(model_util: object, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The VAE by its old names, whose linear layers are convolutions there."""
    return model_util.convert_vae_state_dict(dict(tensors))  # type: ignore[attr-defined]


def numbers(name: str, shape: tuple[int, ...], dice: np.random.Generator) -> Iterator[bytes]:
    """A tensor's content in parts: norms at one, biases at nought, weights by their fan-in."""
    size = math.prod(shape)
    if len(shape) <= 1:
        yield np.full(size, 0.0 if name.endswith("bias") else 1.0, dtype=np.float16).tobytes()
        return
    spread = 0.02 if "embed" in name else 0.5 / math.sqrt(math.prod(shape[1:]))
    for start in range(0, size, 1 << 24):
        part = dice.standard_normal(min(1 << 24, size - start), dtype=np.float32)
        yield (part * spread).astype(np.float16).tobytes()


def main(sd_scripts: Path, path: Path) -> None:
    """Write the file; it appears when it is whole."""
    expected, dice, at = shapes(sd_scripts), np.random.default_rng(0), 0
    header: dict[str, object] = {}
    for name, shape in expected.items():
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    part = path.with_suffix(".part")
    with part.open("wb") as out:
        out.write(struct.pack("<Q", len(raw)) + raw)
        for name, shape in expected.items():
            for content in numbers(name, shape, dice):
                out.write(content)
    part.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
