"""The trained tiny base as a folder in diffusers layout, in fp16."""

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from .train import Recipe, Run
from .vae import build_vae
from .vocabulary import save_vocabulary


def export(run_folder: Path, to: Path) -> None:
    """Write the averaged weights of the run in `run_folder` to `to`."""
    run = Run(run_folder, Recipe(), "cpu")
    run.load()
    model = run.averaged()
    pipeline = StableDiffusionPipeline(
        vae=build_vae(),
        text_encoder=model.text_encoder,
        tokenizer=run.tokenizer,
        unet=model.unet,
        scheduler=run.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16)
    pipeline.save_pretrained(to)
    for old in (to / "tokenizer").iterdir():
        old.unlink()
    save_vocabulary(to / "tokenizer")  # the plain files, which every version reads alike
    _old_names(to / "text_encoder" / "model.safetensors")
    _loads_as_float32(to / "text_encoder" / "config.json")
    for file in to.rglob("*.safetensors"):
        file.chmod(0o644)


def _old_names(path: Path) -> None:
    """Tensor names as transformers 4 wrote them, which both 4 and 5 read."""
    tensors = load_file(path)
    renamed = {
        name if name.startswith("text_model.") else f"text_model.{name}": tensor
        for name, tensor in tensors.items()
    }
    save_file(renamed, path, metadata={"format": "pt"})


def _loads_as_float32(path: Path) -> None:
    """Set float32, which diffusers gives the other parts unless another type is requested.

    Without it, transformers 5 keeps the number format of the file (fp16) and the pipeline mixes
    two; transformers 4 loads float32 anyway.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
