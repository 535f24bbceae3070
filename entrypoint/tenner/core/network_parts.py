"""The parts of a network that a LoRA adapts."""

from typing import Literal

from tenner.core.messages import msg

Part = Literal["unet", "text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "other"]


PART_NAMES: dict[Part, str] = {
    "unet": "U-Net",
    "transformer": "transformer",
    "text_encoder": msg("text encoder"),
    "text_encoder_2": msg("text encoder 2"),
    "text_encoder_3": msg("text encoder 3"),
    "other": "other",
}
