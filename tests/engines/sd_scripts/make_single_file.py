"""A model in diffusers layout as one file, written by sd-scripts itself, and as a folder with the
same numbers.

    TRAINER_PYTHON make_single_file.py SD_SCRIPTS_DIR FOLDER FILE HALF_FOLDER

SD 2.x only, both in fp16 (2.5 GB each).
"""

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline


def main(sd_scripts: Path, folder: Path, file: Path, half: Path) -> None:
    sys.path.insert(0, str(sd_scripts))
    from library import model_util

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16)
    pipe.save_pretrained(half)
    model_util.save_stable_diffusion_checkpoint(
        True,
        str(file),
        pipe.text_encoder,
        pipe.unet,
        None,
        0,
        0,
        {},
        torch.float16,
        pipe.vae,
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
