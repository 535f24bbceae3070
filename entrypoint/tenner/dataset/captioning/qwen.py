"""Qwen2-VL: a description of each picture by a prompt in plain language, by transformers.

Runs in a process of its own, on the implementation that transformers itself holds: no code comes
with the weights, which are safetensors. The picture is prepared here, as `Qwen2VLImageProcessor`
does it, by the numbers in `preprocessor_config.json`; transformers' own needs torchvision.
"""

import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

MAX_NEW_TOKENS = 96
"""CLIP reads 75 tokens of a caption; the rest leaves space for the last sentence's end."""
MAX_PIXELS = 768 * 28 * 28
"""768 visual tokens: the model's own limit of 16,384 takes minutes for each picture on a CPU."""
MAX_ASPECT = 200
END, STOP = "<|im_end|>", "<|endoftext|>"
BEFORE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
)
AFTER = "<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
"""The conversation as the model's chat template writes it, around the picture's own tokens."""


class Captioner:
    """A model that is loaded. Raises OSError or ValueError where its files do not fit."""

    def __init__(self, folder: Path, *, prompt: str, device: str, num_threads: int) -> None:
        from tokenizers import Tokenizer
        from transformers import Qwen2VLForConditionalGeneration

        torch.set_num_threads(num_threads)
        cuda = torch.cuda.is_available()
        if device == "cuda" and not cuda:
            raise ValueError("torch sees no card here")
        self.device = "cuda" if cuda and device != "cpu" else "cpu"
        self._prompt = prompt
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._preparation = _read_json(folder / "preprocessor_config.json")
        architecture: Any = Qwen2VLForConditionalGeneration
        model, about = architecture.from_pretrained(
            folder,
            torch_dtype=_precision(self.device),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        if lost := sorted(about["missing_keys"]):
            raise ValueError(f"the weights lack {', '.join(lost[:3])} and {len(lost[3:])} more")
        self._model: Any = model.eval().to(self.device)
        # Newer versions distinguish text from pictures by an argument that older ones refuse.
        self._takes_types = "mm_token_type_ids" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def describe(self, image: Image.Image) -> str:
        """The reply to the prompt for an upright RGB picture, in whole sentences."""
        patches, grid = as_patches(image, self._preparation)
        ids = torch.tensor([self._conversation(grid)], device=self.device)
        picture = int(self._model.config.image_token_id)
        more = {"mm_token_type_ids": (ids == picture).int()} if self._takes_types else {}
        ends = [self._tokenizer.token_to_id(name) for name in (END, STOP)]
        found = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.tensor(patches).to(self.device, self._model.dtype),
            image_grid_thw=torch.tensor([grid], device=self.device),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=ends,
            pad_token_id=ends[1],
            **more,
        )
        written = found[0, ids.shape[1] :].tolist()
        text = " ".join(str(self._tokenizer.decode(written, skip_special_tokens=True)).split())
        return text if written and written[-1] in ends else whole_sentences(text)

    def _conversation(self, grid: tuple[int, int, int]) -> list[int]:
        """Token ids of the whole conversation, with one for each visual token."""
        merge = int(self._preparation["merge_size"])
        picture = [int(self._model.config.image_token_id)] * (math.prod(grid) // merge**2)
        before, after = (
            self._tokenizer.encode(part, add_special_tokens=False).ids
            for part in (BEFORE, AFTER.format(prompt=self._prompt))
        )
        return [*before, *picture, *after]


def as_patches(
    image: Image.Image, preparation: dict[str, Any]
) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    """[patches, values of a patch] of an RGB picture, and how many patches there are as
    (1, down, across). Patches of one visual token stand together."""
    side, merge = int(preparation["patch_size"]), int(preparation["merge_size"])
    frames = int(preparation["temporal_patch_size"])
    most = min(int(preparation["max_pixels"]), MAX_PIXELS)
    width, height = fitted_size(image.size, side * merge, int(preparation["min_pixels"]), most)
    sized = image.resize((width, height), Image.Resampling.BICUBIC)
    values = np.asarray(sized, dtype=np.float32) * float(preparation.get("rescale_factor", 1 / 255))
    mean = np.asarray(preparation["image_mean"], dtype=np.float32)
    spread = np.asarray(preparation["image_std"], dtype=np.float32)
    pixels = ((values - mean) / spread).transpose(2, 0, 1)
    down, across = height // side, width // side
    tiles = np.repeat(pixels[None], frames, axis=0).reshape(
        frames, 3, down // merge, merge, side, across // merge, merge, side
    )
    ordered = tiles.transpose(2, 5, 3, 6, 1, 0, 4, 7)
    flat = ordered.reshape(down * across, 3 * frames * side * side)
    return np.ascontiguousarray(flat, dtype=np.float32), (1, down, across)


def fitted_size(
    size: tuple[int, int], factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Width and height, multiples of `factor` between the two areas, nearest to the picture's own
    shape. Raises ValueError for a picture too narrow for the model."""
    width, height = size
    if max(size) > MAX_ASPECT * min(size):
        raise ValueError(f"the picture is over {MAX_ASPECT} times as long as wide")
    across, down = round(width / factor) * factor, round(height / factor) * factor
    if across * down > max_pixels:
        by = math.sqrt(width * height / max_pixels)
        across, down = (
            max(factor, math.floor(length / by / factor) * factor) for length in (width, height)
        )
    elif across * down < min_pixels:
        by = math.sqrt(min_pixels / (width * height))
        across, down = (math.ceil(length * by / factor) * factor for length in (width, height))
    return across, down


def whole_sentences(text: str) -> str:
    """A text that was cut by its length, up to the end of its last whole sentence."""
    end = max(text.rfind(". "), text.rfind("! "), text.rfind("? "))
    return text[: end + 1] if end > 0 else text


def _precision(device: str) -> torch.dtype:
    """bf16 on a card that has it; fp32 on a CPU, most of which are slow in bf16."""
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
