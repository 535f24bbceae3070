"""The dataset as the later stages know it: images with their captions, repeats and buckets."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.dataset.facts import ImageFacts
from tenner.dataset.findings import FileIssue, Finding, printable
from tenner.dataset.masks import Mask
from tenner.kohya.buckets import BucketChoice, Buckets, Size, batches_per_epoch


@dataclass(frozen=True, kw_only=True)
class ImageItem:
    """One image as it will be trained.

    `path` is the working copy's, `source` the name in the user's folder, `source_path` the file
    itself. `caption` has several lines only where one of them is drawn at each step.
    """

    path: Path
    source: str
    source_path: Path
    caption: str
    num_repeats: int
    concept: str
    is_reg: bool
    facts: ImageFacts
    mask: Mask | None = None

    @property
    def size(self) -> Size:
        return self.facts.width, self.facts.height


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset that can be trained on. `train_dir` and `reg_dir` hold the clean tree in kohya's
    folder convention; `content_hash` changes with any pixel, caption or repeat."""

    images: tuple[ImageItem, ...]
    buckets: Buckets
    trigger: str
    train_dir: Path
    reg_dir: Path | None
    findings: tuple[Finding, ...]
    left_out: tuple[FileIssue, ...]
    corrected: tuple[FileIssue, ...]
    num_captions: int
    content_hash: str
    held_out: tuple[ImageItem, ...] = ()
    """Training images that are held out of the training, to measure the loss on them."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All findings as problems; none of them is an error."""
        return tuple(finding.problem for finding in self.findings)

    @property
    def num_images(self) -> int:
        return len(self.images)

    @property
    def num_image_passes(self) -> int:
        """Images seen in an epoch: each as often as it repeats."""
        return sum(image.num_repeats for image in self.images)

    def bucket_of(self, image: ImageItem) -> BucketChoice:
        return self.buckets.assign(*image.size)

    def images_by_bucket(self) -> dict[Size, int]:
        """Images with their repeats in each bucket."""
        counts: Counter[Size] = Counter()
        for image in self.images:
            counts[self.bucket_of(image).bucket] += image.num_repeats
        return dict(counts)

    def batches_per_epoch(self, batch_size: int) -> int:
        return batches_per_epoch(self.images_by_bucket(), batch_size)

    def to_json(self) -> dict[str, Any]:
        """As `dataset.json` holds it."""
        return {
            "num_images": self.num_images,
            "num_captions": self.num_captions,
            "num_image_passes": self.num_image_passes,
            "trigger": self.trigger,
            "content_hash": self.content_hash,
            "buckets": [
                {"width": width, "height": height, "image_passes": count}
                for (width, height), count in sorted(self.images_by_bucket().items())
            ],
            "images": [
                {
                    "source": printable(image.source),
                    "caption": image.caption,
                    "num_repeats": image.num_repeats,
                    "is_reg": image.is_reg,
                    "width": image.facts.width,
                    "height": image.facts.height,
                    "sha256": image.facts.sha256,
                    "mask_sha256": image.mask.sha256 if image.mask else None,
                }
                for image in self.images
            ],
            "findings": [
                asdict(finding) | {"files": [printable(file) for file in finding.files]}
                for finding in self.findings
            ],
            "left_out": _notes(self.left_out),
            "corrected": _notes(self.corrected),
        }


def _notes(notes: Sequence[FileIssue]) -> list[dict[str, str]]:
    return [{"path": printable(note.path), "why": note.why} for note in notes]


def spread_regularisation(images: Sequence[ImageItem]) -> tuple[ImageItem, ...]:
    """Regularisation images repeated until there are as many of them as training images.

    As in sd-scripts (`DreamBoothDataset`): round after round, one more of each; those that are
    never reached are not used at all.
    """
    num_trained = sum(image.num_repeats for image in images if not image.is_reg)
    reg = [image for image in images if image.is_reg]
    repeats = [0] * len(reg)
    seen = 0
    while reg and seen < num_trained:
        for index, image in enumerate(reg):
            more = image.num_repeats if repeats[index] == 0 else 1
            repeats[index] += more
            seen += more
            if seen >= num_trained:
                break
    used = [
        replace(image, num_repeats=count)
        for image, count in zip(reg, repeats, strict=True)
        if count
    ]
    return (*(image for image in images if not image.is_reg), *used)


def judge_regularisation(images: Sequence[ImageItem]) -> list[Finding]:
    """How many of the regularisation images are used, and how often they are seen in an epoch.

    `images` are all, before the balance.
    """
    reg = [image for image in images if image.is_reg]
    if not reg or len(reg) == len(images):
        return []
    used = [image for image in spread_regularisation(images) if image.is_reg]
    passes = sum(image.num_repeats for image in used)
    text = msg(
        "{n} of {n2} regularisation images are used, {passes} seen in an epoch beside"
        " {passes2} training images",
        n=len(used),
        n2=len(reg),
        passes=passes,
        passes2=_passes(images, is_reg=False),
    )
    unused = tuple({image.source: None for image in reg[len(used) :]})
    if not unused:
        return [Finding(kind="regularisation", level="note", text=text)]
    times = math.ceil(len(reg) / _passes(images, is_reg=False))
    fix = msg(
        "repeat the training images {times} times as often, or leave the others out", times=times
    )
    if any(image.num_repeats > 1 for image in reg):
        fix = msg("name the regularisation folder with one repeat, as 1_name")
    return [Finding(kind="regularisation", level="warning", text=text, fix=fix, files=unused)]


def _passes(images: Sequence[ImageItem], *, is_reg: bool) -> int:
    return sum(image.num_repeats for image in images if image.is_reg == is_reg)
