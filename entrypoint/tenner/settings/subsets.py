"""Folders of images as a dataset configuration of sd-scripts names them."""

from dataclasses import dataclass

MOST_REPEATS = 10_000
"""Times an image may be seen in an epoch: a higher number is a typo, or part of a name."""


@dataclass(frozen=True, kw_only=True)
class SubsetRequest:
    """One folder named by the user, as a kohya `[[datasets.subsets]]` table names it.

    `caption_prefix` and `caption_suffix`: None takes the request's own.
    `mask_dir`: a folder with a mask for each image.
    """

    image_dir: str
    num_repeats: int | None = None
    class_tokens: str | None = None
    trigger: str | None = None
    is_reg: bool = False
    caption_extension: str | None = None
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    mask_dir: str | None = None
