"""The parts of a network that a LoRA adapts."""

from typing import Literal

Part = Literal["unet", "text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "other"]


PART_NAMES: dict[Part, str] = {
    "unet": "U-Net",
    "transformer": "transformer",
    "text_encoder": "text encoder",
    "text_encoder_2": "text encoder 2",
    "text_encoder_3": "text encoder 3",
    "other": "other",
}
