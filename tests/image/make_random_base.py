"""Stable Diffusion 1.5 in full size with random weights, for the image's tests; runs in the image.

python make_random_base.py FOLDER
"""

import json
import sys
from importlib import resources
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


def main(folder: Path) -> None:
    """Write the model in diffusers layout, in fp16 (2 GB)."""
    text = (resources.files("tenner.engines.diffusers") / "configs.json").read_text()
    parts = json.loads(text)["sd1"]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    UNet2DConditionModel.from_config(parts["unet"]).save_pretrained(folder / "unet")
    AutoencoderKL.from_config(parts["vae"]).save_pretrained(folder / "vae")
    encoder = CLIPTextModel(CLIPTextConfig(**parts["text_encoder"]))
    encoder.save_pretrained(folder / "text_encoder")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
