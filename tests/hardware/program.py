"""The real program in a process of its own, on a machine that a test describes."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

_UNET = {"model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3]}
_SD1 = {"cond_stage_model.transformer.text_model.embeddings.position_ids": [1, 77]}
_SDXL = {
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": [768],
    "conditioner.embedders.1.model.ln_final.weight": [1280],
}
TENSORS = {"sd15": _UNET | _SD1, "sdxl": _UNET | _SDXL}


def sparse_base(folder: Path, name: str = "sd15") -> Path:
    """`folder` as TENNER_MODELS_DIR: a checkpoint whose header is right and whose gigabyte of
    weights is a hole in the file."""
    header: dict[str, object] = {}
    at = 0
    for key, shape in (*TENSORS[name].items(), ("rest", [2**29])):
        size = 2
        for side in shape:
            size *= side
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    os.truncate(path, 8 + len(raw) + at)
    return folder


def photos(folder: Path, num_images: int = 10, side: int = 512) -> Path:
    """A dataset of noise, captioned."""
    concept = folder / "10_sks dog"
    concept.mkdir(parents=True)
    for number in range(num_images):
        picture = Image.effect_noise((side, side), 60 + number)
        picture.save(concept / f"{number:02}.jpg", quality=80)
        (concept / f"{number:02}.txt").write_text(f"sks dog number {number}")
    return folder


def tenner(
    *args: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `tenner` with nothing of this process's environment but what Python needs."""
    environ = {"PATH": str(cwd), "HOME": str(cwd), "LANG": "C.UTF-8", **(env or {})}
    environ |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "tenner", *args],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
