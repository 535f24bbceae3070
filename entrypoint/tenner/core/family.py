"""The families of base models that tenner trains."""

from typing import Literal

Family = Literal["sd1", "sd2", "sdxl"]

FAMILY_NAMES: dict[Family, str] = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
}
