"""The families of base models that tenner trains."""

from typing import Literal

Family = Literal["sd1", "sd2", "sdxl"]
