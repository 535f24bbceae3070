"""What the buckets do to the images: how much is cut away, what small buckets cost. Pure."""

from collections import Counter
from collections.abc import Sequence

from tenner.dataset.buckets import Buckets, Size, batches_per_epoch
from tenner.dataset.findings import Finding, counted, names
from tenner.dataset.items import ImageItem

MUCH_CROPPED = 0.25
"""A quarter of the picture gone: a head or a foot of what was framed."""
MUCH_LOST = 0.2
"""Batches that small buckets may add before it is worth a word."""


def judge_buckets(
    images: Sequence[ImageItem], buckets: Buckets, *, batch_size: int | None
) -> list[Finding]:
    """Findings about sizes and shapes; images that fit no bucket are errors."""
    counts: Counter[Size] = Counter()
    cropped: list[str] = []
    impossible: list[str] = []
    for image in images:
        try:
            place = buckets.assign(*image.size)
        except ValueError:
            impossible.append(image.source)
            continue
        counts[place.bucket] += image.num_repeats
        if place.cropped_share > MUCH_CROPPED:
            cropped.append(image.source)
    findings: list[Finding] = []
    if impossible:
        findings.append(_impossible(impossible, buckets))
    if cropped:
        findings.append(_cropped(cropped))
    if batch_size and batch_size > 1 and counts:
        findings += _lost(counts, batch_size)
    return findings


def _impossible(files: Sequence[str], buckets: Buckets) -> Finding:
    return Finding(
        kind="no_bucket",
        level="error",
        text=f"{counted(len(files), 'image')} too small or too narrow for a bucket of "
        f"{buckets.steps}-pixel steps: {names(files)}",
        fix="remove them, or set bucket_no_upscale = false",
        files=tuple(files),
    )


def _cropped(files: Sequence[str]) -> Finding:
    return Finding(
        kind="cropped",
        level="warning",
        text=f"the crop takes more than a quarter of {counted(len(files), 'image')}: "
        f"{names(files)}",
        fix="crop them yourself, or widen min_bucket_reso and max_bucket_reso",
        files=tuple(files),
    )


def _lost(counts: Counter[Size], batch_size: int) -> list[Finding]:
    batches = batches_per_epoch(counts, batch_size)
    least = batches_per_epoch({(0, 0): counts.total()}, batch_size)
    if batches <= least * (1 + MUCH_LOST):
        return []
    return [
        Finding(
            kind="small_buckets",
            level="note",
            text=f"in {counted(len(counts), 'bucket')} there are {batches} batches an epoch "
            f"where {least} would do at batch {batch_size}",
            fix="crop the images to fewer shapes, or take a smaller batch",
        )
    ]
