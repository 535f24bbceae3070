"""The output of a U-Net with LoRAs, as programs load them, each written as a .npy file.

python unet_output.py BASE FOLDER HOW=LORA …

HOW is `none`, `merged` (the update added to the weights by the formula, by hand), `diffusers` or
`sd-scripts` (its `networks.lora`, from SD_SCRIPTS_DIR, on the same U-Net). Runs in any Python with
torch and diffusers, so that each program can be asked in its own environment.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file


def merge(unet: torch.nn.Module, lora: Path) -> None:
    """W + alpha / rank * up @ down, module by module; every U-Net tensor of the file is used."""
    tensors = {
        name: value.float()
        for name, value in load_file(lora).items()
        if name.startswith("lora_unet_")
    }
    used = 0
    for path, module in unet.named_modules():
        name = f"lora_unet_{path.replace('.', '_')}"
        if f"{name}.lora_up.weight" not in tensors:
            continue
        up, down = (tensors[f"{name}.lora_{side}.weight"] for side in ("up", "down"))
        scale = float(tensors[f"{name}.alpha"]) / down.shape[0]
        update = scale * up.flatten(1) @ down.flatten(1)
        module.weight.data += update.view(module.weight.shape)
        used += 3
    assert used == len(tensors), (used, len(tensors))


def load_with_sd_scripts(pipe: StableDiffusionPipeline, lora: Path) -> None:
    sys.path.insert(0, os.environ["SD_SCRIPTS_DIR"])
    from networks.lora import create_network_from_weights

    network, weights = create_network_from_weights(
        1.0, str(lora), pipe.vae, pipe.text_encoder, pipe.unet
    )
    network.apply_to(pipe.text_encoder, pipe.unet, apply_text_encoder=True, apply_unet=True)
    found = network.load_state_dict(weights, strict=True)
    assert not found.missing_keys
    network.float().eval()


def waves(*shape: int) -> torch.Tensor:
    """Numbers that every version of torch makes alike."""
    count = int(np.prod(shape))
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.37).float().view(shape)


@torch.no_grad()
def answer(base: Path, how: str, lora: Path, out: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(
        base, torch_dtype=torch.float32, safety_checker=None, local_files_only=True
    )
    if how == "merged":
        merge(pipe.unet, lora)
    elif how == "diffusers":
        pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    elif how == "sd-scripts":
        load_with_sd_scripts(pipe, lora)
    unet = pipe.unet.eval()
    latents, context = waves(2, 4, 8, 8), waves(2, 7, unet.config.cross_attention_dim)
    found = unet(latents, torch.tensor([20, 700]), context).sample
    np.save(out, found.double().numpy())


if __name__ == "__main__":
    for word in sys.argv[3:]:
        how, _, lora = word.partition("=")
        file = Path(lora)
        answer(Path(sys.argv[1]), how, file, Path(sys.argv[2]) / f"{file.stem}-{how}.npy")
