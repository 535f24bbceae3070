"""Stable Diffusion 1.5 in full size with random weights, for the image's tests; runs in the image.

python make_random_base.py FOLDER
"""

import json
import sys
import tempfile
from importlib import resources
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tenner.clip_tokenizers import write_clip_tokenizers


def main(folder: Path) -> None:
    """Write the model in diffusers layout, in fp16 (2 GB)."""
    text = (resources.files("tenner.engines.diffusers") / "configs.json").read_text()
    parts = json.loads(text)["sd1"]
    with tempfile.TemporaryDirectory() as place:
        tokenizers = write_clip_tokenizers(Path(place))
        tokenizer = CLIPTokenizer.from_pretrained(tokenizers / "openai_clip-vit-large-patch14")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    StableDiffusionPipeline(
        unet=UNet2DConditionModel.from_config(parts["unet"]),
        vae=AutoencoderKL.from_config(parts["vae"]),
        text_encoder=CLIPTextModel(CLIPTextConfig(**parts["text_encoder"])),
        tokenizer=tokenizer,
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
