"""The families of base models that tenner trains."""

from typing import Literal

from tenner.core.messages import msg

Family = Literal["sd1", "sd2", "sdxl"]

FAMILY_NAMES: dict[Family, str] = {
    "sd1": msg("Stable Diffusion 1.x"),
    "sd2": msg("Stable Diffusion 2.x"),
    "sdxl": msg("Stable Diffusion XL"),
}
