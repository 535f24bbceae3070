"""A model in diffusers layout as one file, written by sd-scripts itself.

    TRAINER_PYTHON make_single_file.py SD_SCRIPTS_DIR FOLDER FILE

SD 2.x only, in fp16 (2.5 GB).
"""

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline


def main(sd_scripts: Path, folder: Path, file: Path) -> None:
    sys.path.insert(0, str(sd_scripts))
    from library import model_util

    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16)
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
