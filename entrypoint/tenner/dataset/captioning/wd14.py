"""WD14 taggers: an ONNX graph that gives each of some thousand tags a probability.

Runs in a process of its own, on onnxruntime, numpy and Pillow alone. The graph takes pictures as
[N, side, side, 3], blue first, from 0 to 255, padded with white to a square; its rows are named by
`selected_tags.csv`, where category 0 is a general tag, 4 a character and 9 a rating.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tenner.core.messages import msg

GENERAL, CHARACTER = 0, 4
SHORT_TAG = 3
"""Tags up to this length are faces such as `^_^`, whose underscores are no spaces."""


class WrongModel(ValueError):
    """The files are no tagger of this kind."""


@dataclass(frozen=True, kw_only=True)
class Tag:
    """A row of the graph's answer."""

    name: str
    category: int


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which tags are reported: those as probable as these, without `left_out`."""

    threshold: float
    character_threshold: float
    left_out: frozenset[str]


class Tagger:
    """A tagger that is loaded. Raises WrongModel where the files do not belong together."""

    def __init__(self, folder: Path, choice: Choice, *, device: str, num_threads: int) -> None:
        import onnxruntime  # pyright: ignore[reportMissingTypeStubs]

        options: Any = onnxruntime.SessionOptions()  # pyright: ignore
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        self.device, providers = _providers(onnxruntime.get_available_providers(), device)  # pyright: ignore
        self._session: Any = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=providers
        )
        self._choice = choice
        self._tags = read_tags(folder / "selected_tags.csv")
        model_input = self._session.get_inputs()[0]
        self._input, self._side = str(model_input.name), _side(list(model_input.shape))
        answered = self._session.get_outputs()[0].shape[-1]
        if isinstance(answered, int) and answered != len(self._tags):
            raise WrongModel(
                msg(
                    "model.onnx names {answered} tags, selected_tags.csv {n}",
                    answered=answered,
                    n=len(self._tags),
                )
            )

    def describe(self, image: Image.Image) -> str:
        """The tags of an upright RGB picture, most probable first, characters before all."""
        pixels = as_input(image, self._side)[None]
        probabilities = self._session.run(None, {self._input: pixels})[0][0]
        return tags_text(self._tags, [float(value) for value in probabilities], self._choice)


def _providers(available: list[str], device: str) -> tuple[str, list[str]]:
    """Where the graph runs. Raises WrongModel where a card is requested and not to be had."""
    gpu = "CUDAExecutionProvider"
    if device == "cuda" and gpu not in available:
        raise WrongModel(msg("onnxruntime here has no CUDA (pip install onnxruntime-gpu)"))
    if device != "cpu" and gpu in available:
        return "cuda", [gpu, "CPUExecutionProvider"]
    return "cpu", ["CPUExecutionProvider"]


def _side(shape: list[Any]) -> int:
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or not isinstance(shape[1], int):
        raise WrongModel(
            msg("model.onnx takes {shape}, not pictures as [N, side, side, 3]", shape=shape)
        )
    return shape[1]


def read_tags(path: Path) -> list[Tag]:
    """The tags in the order of the graph's answer. Raises WrongModel."""
    with path.open(encoding="utf-8-sig", newline="") as opened:
        rows = list(csv.DictReader(opened))
    try:
        return [Tag(name=row["name"], category=int(row["category"])) for row in rows]
    except (KeyError, ValueError, TypeError):
        raise WrongModel(msg("selected_tags.csv has no columns name and category")) from None


def as_input(image: Image.Image, side: int) -> NDArray[np.float32]:
    """[side, side, 3] of an RGB picture: padded with white to a square, blue first."""
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), "white")
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    sized = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(sized, dtype=np.float32)[:, :, ::-1])


def tags_text(tags: list[Tag], probabilities: list[float], choice: Choice) -> str:
    """`hatsune miku, 1girl, blue sky`."""
    kinds = ((CHARACTER, choice.character_threshold), (GENERAL, choice.threshold))
    texts: list[str] = []
    for category, threshold in kinds:
        likely = [
            (probability, tag.name)
            for tag, probability in zip(tags, probabilities, strict=True)
            if tag.category == category and probability >= threshold
        ]
        texts += [_spelt(name) for _, name in sorted(likely, key=lambda each: -each[0])]
    return ", ".join(word for word in texts if word not in choice.left_out)


def _spelt(name: str) -> str:
    return name.replace("_", " ") if len(name) > SHORT_TAG else name
