"""The shipped base is an ordinary Stable Diffusion folder: diffusers opens it and it draws."""

import subprocess
import sys

from tenner.base.tiny import base_dir

DRAW = """
import sys, torch
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None)
pipeline.set_progress_bar_config(disable=True)
parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
assert {part.dtype for part in parts} == {torch.float32}
assert pipeline.scheduler.config.prediction_type == "v_prediction"
assert pipeline.scheduler.config.rescale_betas_zero_snr
for text in ("", "مرحبا بالعالم", "🙂 sks 20!"):
    ids = pipeline.tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(ids) == 77
image = pipeline(
    "a red heart on a white background", height=64, width=64, num_inference_steps=20,
    guidance_scale=3.0, generator=torch.Generator().manual_seed(1),
).images[0]
red, green, blue = image.resize((1, 1), 4).getpixel((0, 0))
corner = image.getpixel((0, 63))
assert min(corner) > 200, corner
assert red > green + 30 and red > blue + 30, (red, green, blue)
"""


def test_diffusers_opens_the_base_and_draws_the_prompt() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(base_dir())],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
