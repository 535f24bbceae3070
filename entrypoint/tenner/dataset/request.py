"""Which dataset is expected, and how: plain values, whoever parsed them."""

from dataclasses import dataclass
from pathlib import Path

from tenner.core.messages import Message, msg
from tenner.kohya.buckets import Size
from tenner.settings.subsets import SubsetRequest

DEFAULT_REPEATS = 10
"""Repeats of a plain folder: the guide's own example, `10_concept_name` over ten epochs."""


def dataset_address(address: str) -> Message:
    """How errors name the address of a dataset."""
    return msg("dataset {address}", address=address)


@dataclass(frozen=True, kw_only=True)
class DatasetRequest:
    """A dataset to fetch, judge and clean.

    `source`: a folder, an archive (zip, tar, tar.gz, tar.bz2, tar.xz, tar.zst), `s3://…`,
    `hf://datasets/user/name` or `https://…` of an archive, as the user gave it. With `subsets`
    the source may be empty.
    `num_repeats`: for folders that name none (None: ten, as in the guide).
    `caption_extension`: None finds it.
    `drafts`: a folder of drafts, read for training images that have no caption. `drafted_by`: the
    model that a training will draft missing captions with; empty where it will not.
    `caption_prefix`, `caption_suffix`: written before and behind every caption, with a space.
    `enable_wildcard`: captions keep all their lines, of which the trainer picks one at random.
    `finest_step`: the smallest `bucket_reso_steps` that the family's U-Net takes.
    `batch_size`: where the user named one; only to judge small buckets.
    `skip`: folders that are no part of the dataset wherever they are, as the runs' own.
    `alpha_color`: RGB hex behind transparent pixels; `alpha_mask` keeps the alpha instead, for a
    masked loss.
    `sha256`: of the archive, checked where given.
    `validation_split`: share of the training images that is held out, chosen by `validation_seed`.
    `decodes`: off for a plan: only heads are read, no working copy is made, and images stay where
    they are.
    `max_bytes`: neither the download nor what is unpacked may be larger.
    """

    source: str = ""
    subsets: tuple[SubsetRequest, ...] = ()
    reg_data_dir: str | None = None
    trigger: str | None = None
    add_trigger: bool = False
    num_repeats: int | None = None
    caption_extension: str | None = None
    drafts: Path | None = None
    drafted_by: str = ""
    resolution: Size = (512, 512)
    enable_bucket: bool = True
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    finest_step: int = 64
    bucket_no_upscale: bool = False
    batch_size: int | None = None
    max_token_length: int = 75
    enable_wildcard: bool = False
    caption_prefix: str = ""
    caption_suffix: str = ""
    alpha_color: str = "#ffffff"
    alpha_mask: bool = False
    sha256: str | None = None
    max_bytes: int = 50 * 1024**3
    cache_dir: Path | None = None
    skip: tuple[Path, ...] = ()
    validation_split: float = 0.0
    validation_seed: int = 0
    decodes: bool = True
    num_workers: int | None = None
    image_timeout_seconds: float = 120.0
