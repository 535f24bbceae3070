"""Stable Diffusion 1.5 and SDXL in full size with random weights, and pictures to train on.

    python -m bench.gpu_day.bases FOLDER sd1|sdxl

Weights are drawn as their layers would be at the start of a training, in fp16, in diffusers layout.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

PARTS = {
    "sd1": ("unet", "vae", "text_encoder"),
    "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2"),
}


def write_base(folder: Path, family: str) -> None:
    """The model's folder: 2.1 GB for SD 1.5, 6.9 GB for SDXL."""
    from tenner.base.tokenizers import tokenizer_names, write_clip_tokenizers

    text = (resources.files("tenner.engines.native") / "configs.json").read_text(encoding="utf-8")
    configs = json.loads(text)[family]
    for part in PARTS[family]:
        _write_part(folder / part, part, configs[part])
    tokenizers = write_clip_tokenizers(folder / "made")
    for number, name in enumerate(tokenizer_names(family)):
        (tokenizers / name).rename(folder / ("tokenizer_2" if number else "tokenizer"))
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
    }
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = {"_class_name": "StableDiffusionXLPipeline" if family == "sdxl" else
             "StableDiffusionPipeline"}  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))


def _write_part(folder: Path, part: str, config: Mapping[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rng = torch.Generator(device).manual_seed(len(part))
    tensors = {
        name: _random_tensor(name, shape, device, rng)
        for name, shape in _shapes(part, config).items()
    }
    folder.mkdir(parents=True)
    text = part.startswith("text_encoder")
    save_file(
        tensors, folder / ("model.safetensors" if text else "diffusion_pytorch_model.safetensors")
    )
    (folder / "config.json").write_text(json.dumps(dict(config)))


def _random_tensor(name: str, shape: tuple[int, ...], device: str, rng: Any) -> Any:
    """Weights uniform within 1 / sqrt(fan-in); 1 and 0 for scales and biases."""
    import torch

    if len(shape) < 2:
        value = 1.0 if name.endswith("weight") else 0.0
        return torch.full(shape, value, dtype=torch.float16)
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    values = torch.rand(shape, device=device, generator=rng).mul_(2 * bound).sub_(bound)
    return values.half().cpu()


def _shapes(part: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    import torch

    with torch.device("meta"):
        model = _model(part, config)
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return {name: shape for name, shape in found.items() if not name.endswith("position_ids")}


def _model(part: str, config: Mapping[str, Any]) -> Any:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    if part == "unet":
        return UNet2DConditionModel(**config)
    if part == "vae":
        return AutoencoderKL(**config)
    if part == "text_encoder":
        return CLIPTextModel(CLIPTextConfig(**config))
    return CLIPTextModelWithProjection(CLIPTextConfig(**{"projection_dim": 1280, **config}))


def write_pictures(folder: Path, *, side: int, count: int) -> list[Path]:
    """`count` pictures of coloured noise with a caption beside each."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    return list(_pictures(folder, side, count, Image))


def _pictures(folder: Path, side: int, count: int, image: Any) -> Iterator[Path]:
    for number in range(count):
        path = folder / f"{number:02}.png"
        if not path.is_file():
            tiny = image.effect_noise((16, 16), 90).convert("RGB")
            tint = image.new("RGB", (16, 16), (29 * number % 256, 255 - 17 * number % 256, 90))
            image.blend(tiny, tint, 0.5).resize((side, side)).save(path)
            text = f"a photo of sks star number {number}, painted"
            path.with_suffix(".txt").write_text(text, encoding="utf-8")
        yield path


if __name__ == "__main__":
    write_base(Path(sys.argv[1]), sys.argv[2])
