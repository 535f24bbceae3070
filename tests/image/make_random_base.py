"""Stable Diffusion 1.5 or 2.x in full size with random weights, for the image's tests; runs in the
image.

python make_random_base.py FOLDER [sd1|sd2]
"""

import json
import sys
import tempfile
from importlib import resources
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tenner.base.tokenizers import tokenizer_names, write_clip_tokenizers


def main(folder: Path, family: str = "sd1") -> None:
    """Write the model in diffusers layout, in fp16 (2 GB; SD 2.x 2.5). SD 2.x predicts v."""
    text = (resources.files("tenner.engines.native") / "configs.json").read_text()
    parts = json.loads(text)[family]
    prediction = "v_prediction" if family == "sd2" else "epsilon"
    with tempfile.TemporaryDirectory() as location:
        tokenizers = write_clip_tokenizers(Path(location))
        tokenizer = CLIPTokenizer.from_pretrained(tokenizers / tokenizer_names(family)[0])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    StableDiffusionPipeline(
        unet=UNet2DConditionModel.from_config(parts["unet"]),
        vae=AutoencoderKL.from_config(parts["vae"]),
        text_encoder=CLIPTextModel(CLIPTextConfig(**parts["text_encoder"])),
        tokenizer=tokenizer,
        scheduler=PNDMScheduler(
            skip_prk_steps=True,
            steps_offset=1,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
