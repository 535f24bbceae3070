"""LoRA files made up by a test, written with safetensors' own writer."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Path:
    save_file(dict(tensors), path, metadata=dict(metadata) if metadata else None)
    return path


def kohya(
    module: str, out: int, inputs: int, rank: int, alpha: float, dtype: type = np.float32
) -> dict[str, np.ndarray]:
    """A linear module as sd-scripts writes it."""
    draw = np.random.default_rng(sum(module.encode()))
    return {
        f"{module}.alpha": np.array(alpha, dtype),
        f"{module}.lora_down.weight": draw.normal(size=(rank, inputs)).astype(dtype),
        f"{module}.lora_up.weight": draw.normal(size=(out, rank)).astype(dtype),
    }


def write_head(path: Path, shapes: Mapping[str, list[int]]) -> Path:
    """A file of zeros in fp16 with the given tensors, as large as its header describes, but
    sparse."""
    head: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape, dtype=np.int64))
        head[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(head).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)
    return path
