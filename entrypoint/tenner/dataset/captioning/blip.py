"""BLIP: a sentence for each picture, by transformers.

Runs in a process of its own. The picture is prepared here, by the numbers in
`preprocessor_config.json`, and the weights are read without running code from them: safetensors,
or a PyTorch file through `weights_only`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

MAX_NEW_TOKENS = 40
NUM_BEAMS = 3


class Captioner:
    """A captioner that is loaded. Raises OSError or ValueError where its files do not fit."""

    def __init__(self, folder: Path, *, device: str, num_threads: int) -> None:
        from tokenizers import Tokenizer
        from transformers import BlipConfig, BlipForConditionalGeneration

        torch.set_num_threads(num_threads)
        cuda = torch.cuda.is_available()
        if device == "cuda" and not cuda:
            raise ValueError("torch sees no card here")
        self.device = "cuda" if cuda and device != "cpu" else "cpu"
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._preparation = _read_json(folder / "preprocessor_config.json")
        config: Any = BlipConfig.from_dict(_read_json(folder / "config.json"))  # pyright: ignore[reportUnknownMemberType]
        model: Any = BlipForConditionalGeneration(config)
        _load(model, folder)
        precision = torch.float16 if self.device == "cuda" else torch.float32
        self._model: Any = model.eval().to(self.device, precision)

    @torch.inference_mode()
    def describe(self, image: Image.Image) -> str:
        """A sentence about an upright RGB picture."""
        pixels = torch.tensor(as_input(image, self._preparation))[None]
        found = self._model.generate(
            pixel_values=pixels.to(self._model.device, self._model.dtype),
            max_new_tokens=MAX_NEW_TOKENS,
            num_beams=NUM_BEAMS,
        )
        text = self._tokenizer.decode(found[0].tolist(), skip_special_tokens=True)
        return " ".join(str(text).split())


def as_input(image: Image.Image, preparation: dict[str, Any]) -> NDArray[np.float32]:
    """[3, height, width] of an RGB picture, scaled and shifted as the model was trained."""
    size = preparation["size"]
    width, height = (
        (size, size) if isinstance(size, int) else (int(size["width"]), int(size["height"]))
    )
    resample = Image.Resampling(int(preparation.get("resample", Image.Resampling.BICUBIC)))
    sized = image.resize((width, height), resample)
    values = np.asarray(sized, dtype=np.float32) * float(preparation.get("rescale_factor", 1 / 255))
    mean = np.asarray(preparation["image_mean"], dtype=np.float32)
    spread = np.asarray(preparation["image_std"], dtype=np.float32)
    return np.ascontiguousarray(((values - mean) / spread).transpose(2, 0, 1))


def _load(model: Any, folder: Path) -> None:
    """The weights into the model. Raises ValueError where some are missing or do not fit."""
    found = _weights(folder)
    try:
        missing, _ = model.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit config.json: {error}") from None
    model.tie_weights()
    parameters = dict(model.named_parameters())
    lost = [
        name for name in missing if name in parameters and not _is_tied(parameters, name, found)
    ]
    if lost:
        raise ValueError(f"the weights lack {', '.join(lost[:3])} and {max(0, len(lost) - 3)} more")


def _is_tied(parameters: dict[str, Any], name: str, found: dict[str, Any]) -> bool:
    """Whether a parameter that has no weights of its own is another one that has."""
    return any(other is parameters[name] and key in found for key, other in parameters.items())


def _weights(folder: Path) -> dict[str, Any]:
    whole = folder / "model.safetensors"
    if whole.is_file():
        from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

        return load_file(whole)
    return torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)


def _read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
