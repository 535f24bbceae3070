"""What the buckets do to the images: pixels not used, edges cut away, what small buckets cost.

Pure. Each finding names the setting that removes it, which is found by trying it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tenner.core.messages import msg, plural
from tenner.dataset.findings import Finding, names
from tenner.dataset.items import ImageItem
from tenner.dataset.request import DatasetRequest
from tenner.kohya.buckets import (
    BucketChoice,
    Buckets,
    Size,
    batches_per_epoch,
    make_buckets,
    widest_bucket,
)

MUCH_CROPPED = 0.15
"""More than this of a picture cut away is worth a word: steps of 64 pixels cut off 12 % at most
of what is not wider than 2:1."""
MUCH_UNUSED = 0.10
"""More than this of the training area left unused: steps of 64 pixels lose 6 % at 512."""
MUCH_LOST = 0.2
"""Batches that small buckets may add before it is worth a word."""


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """An image with its bucket and crop."""

    image: ImageItem
    fit: BucketChoice
    unused: float


def buckets_of(request: DatasetRequest) -> Buckets:
    """The request's buckets. Raises ValueError where its numbers contradict each other."""
    return make_buckets(
        resolution=request.resolution,
        enable_bucket=request.enable_bucket,
        min_bucket_reso=request.min_bucket_reso,
        max_bucket_reso=request.max_bucket_reso,
        bucket_reso_steps=request.bucket_reso_steps,
        bucket_no_upscale=request.bucket_no_upscale,
    )


def judge_buckets(images: Sequence[ImageItem], request: DatasetRequest) -> list[Finding]:
    """Findings about sizes and shapes; images that fit no bucket are errors.

    Raises ValueError where the request's numbers make no buckets.
    """
    buckets = buckets_of(request)
    counts: Counter[Size] = Counter()
    fitted: list[_Fitted] = []
    impossible: list[str] = []
    for image in images:
        try:
            fit = buckets.assign(*image.size)
        except ValueError:
            impossible.append(image.source)
            continue
        counts[fit.bucket] += image.num_repeats
        unused = unused_share(buckets, fit, image.size)
        fitted.append(_Fitted(image=image, fit=fit, unused=unused))
    findings: list[Finding] = []
    if impossible:
        findings.append(_impossible(impossible, buckets))
    unused = [each for each in fitted if each.unused > MUCH_UNUSED]
    if unused:
        findings.append(_unused(unused, request))
    cropped = [each for each in fitted if each.fit.cropped_share > MUCH_CROPPED]
    if cropped:
        findings.append(_cropped(cropped, request))
    if request.batch_size and request.batch_size > 1 and counts:
        findings += _lost(counts, request.batch_size)
    return findings


def unused_share(buckets: Buckets, fit: BucketChoice, size: Size) -> float:
    """The share of the training area that the image's bucket leaves unused, 0 to 1.

    An image that may not be enlarged has no more area than its own.
    """
    allowed = buckets.resolution[0] * buckets.resolution[1]
    if buckets.no_upscale:
        allowed = min(allowed, size[0] * size[1])
    return max(0.0, 1 - fit.bucket[0] * fit.bucket[1] / allowed)


def _impossible(files: Sequence[str], buckets: Buckets) -> Finding:
    return Finding(
        kind="no_bucket",
        level="error",
        text=msg(
            "{images} too small or too narrow for a bucket of {steps}-pixel steps: {names}",
            images=plural("{n} image", "{n} images", len(files)),
            steps=buckets.steps,
            names=names(files),
        ),
        fix=msg("remove them, or set bucket_no_upscale = false"),
        files=tuple(files),
    )


def _unused(found: Sequence[_Fitted], request: DatasetRequest) -> Finding:
    worst = max(found, key=lambda each: each.unused)
    files = [each.image.source for each in found]
    width, height = request.resolution
    setting = _mending(found, request, by=lambda each: each.unused <= MUCH_UNUSED)
    return Finding(
        kind="unused_area",
        level="warning",
        text=msg(
            "up to {unused} % of the pixels that {width}×{height} allows are not used for"
            " {images} ({shown}): {names}",
            unused=round(100 * worst.unused),
            width=width,
            height=height,
            images=plural("{n} image", "{n} images", len(files)),
            shown=_shown(worst),
            names=names(files),
        ),
        fix=msg("set {setting}, which keeps them", setting=setting)
        if setting
        else msg("crop them to a shape nearer to a square"),
        files=tuple(files),
    )


def _cropped(found: Sequence[_Fitted], request: DatasetRequest) -> Finding:
    worst = max(found, key=lambda each: each.fit.cropped_share)
    files = [each.image.source for each in found]
    setting = _mending(found, request, by=lambda each: each.fit.cropped_share <= MUCH_CROPPED)
    return Finding(
        kind="cropped",
        level="warning",
        text=msg(
            "the crop takes up to {cropped_share} % of {images} ({shown}): {names}",
            cropped_share=round(100 * worst.fit.cropped_share),
            images=plural("{n} image", "{n} images", len(files)),
            shown=_shown(worst),
            names=names(files),
        ),
        fix=msg("set {setting}, or crop them yourself", setting=setting)
        if setting
        else msg("crop them yourself"),
        files=tuple(files),
    )


def _shown(fitted: _Fitted) -> str:
    (width, height), (across, down) = fitted.image.size, fitted.fit.bucket
    return msg(
        "{width}×{height} is trained at {across}×{down}",
        width=width,
        height=height,
        across=across,
        down=down,
    )


def _mending(
    found: Sequence[_Fitted], request: DatasetRequest, *, by: Callable[[_Fitted], bool]
) -> str:
    """The setting with which all of `found` would be well, empty where none is."""
    for text, changed in _candidates(request):
        buckets = buckets_of(changed)
        if all(by(_fitted_again(each.image, buckets)) for each in found):
            return text
    return ""


def _fitted_again(image: ImageItem, buckets: Buckets) -> _Fitted:
    try:
        fit = buckets.assign(*image.size)
    except ValueError:
        fit = BucketChoice(bucket=(0, 0), resized=(1, 1), crop=(0, 0))
    return _Fitted(image=image, fit=fit, unused=unused_share(buckets, fit, image.size))


def _candidates(request: DatasetRequest) -> Iterator[tuple[str, DatasetRequest]]:
    """Settings to try, the least change first."""
    if not request.enable_bucket:
        yield "enable_bucket = true", replace(request, enable_bucket=True)
        return
    widest = widest_bucket(request.resolution)
    if request.max_bucket_reso < widest:
        text = f"max_bucket_reso = {widest}"
        yield text, replace(request, max_bucket_reso=widest)
    smallest = min(256, *request.resolution)
    if request.min_bucket_reso > smallest:
        yield f"min_bucket_reso = {smallest}", replace(request, min_bucket_reso=smallest)
        both = f"min_bucket_reso = {smallest}, max_bucket_reso = {widest}"
        yield both, replace(request, min_bucket_reso=smallest, max_bucket_reso=widest)
    if request.bucket_reso_steps > request.finest_step:
        text = f"bucket_reso_steps = {request.finest_step}"
        yield text, replace(request, bucket_reso_steps=request.finest_step)
    if request.max_bucket_reso < 2 * widest:  # strips and panoramas
        text = f"max_bucket_reso = {2 * widest}"
        yield text, replace(request, max_bucket_reso=2 * widest)
    if request.bucket_no_upscale:
        yield "bucket_no_upscale = false", replace(request, bucket_no_upscale=False)


def _lost(counts: Counter[Size], batch_size: int) -> list[Finding]:
    batches = batches_per_epoch(counts, batch_size)
    least = batches_per_epoch({(0, 0): counts.total()}, batch_size)
    if batches <= least * (1 + MUCH_LOST):
        return []
    return [
        Finding(
            kind="small_buckets",
            level="note",
            text=msg(
                "in {buckets} there are {batches} batches an epoch where {least} would do"
                " at batch {batch_size}",
                buckets=plural("{n} bucket", "{n} buckets", len(counts)),
                batches=batches,
                least=least,
                batch_size=batch_size,
            ),
            fix=msg("crop the images to fewer shapes, or take a smaller batch"),
        )
    ]
