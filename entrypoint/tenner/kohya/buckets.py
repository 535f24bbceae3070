"""Which size an image is trained at: kohya's aspect-ratio buckets, as a function of numbers.

An image is resized so that it covers its bucket, then cropped to it around the centre. The same
sizes come out as in sd-scripts (`library/model_util.make_bucket_resolutions` and
`library/train_util.BucketManager`), whichever engine trains. All sizes are (width, height) in
pixels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tenner.core.messages import msg

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class BucketChoice:
    """Where one image goes: resize to `resized`, then cut `bucket` out of it at `crop`.

    `crop` is (left, top) of the centred cut. `bucket` never exceeds `resized`.
    """

    bucket: Size
    resized: Size
    crop: Size

    @property
    def cropped_share(self) -> float:
        """The share of the resized picture that the cut throws away, 0 to 1."""
        used_pixels = self.bucket[0] * self.bucket[1]
        return 1.0 - used_pixels / (self.resized[0] * self.resized[1])


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """The buckets of one training resolution.

    `sizes` is sorted; with `no_upscale` it is empty, for each image then makes its own bucket.
    """

    resolution: Size
    steps: int
    no_upscale: bool
    sizes: tuple[Size, ...]

    def assign(self, width: int, height: int) -> BucketChoice:
        """The bucket of an image of `width` x `height` pixels, upright.

        Raises ValueError where the image is smaller than one step and may not be enlarged.
        """
        bucket, resized = (
            self._own_size(width, height) if self.no_upscale else self._nearest(width, height)
        )
        if min(bucket) < 1:
            raise ValueError(
                msg(
                    "{width}x{height} is smaller than one bucket step of {steps} pixels",
                    width=width,
                    height=height,
                    steps=self.steps,
                )
            )
        crop = ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2)
        return BucketChoice(bucket=bucket, resized=resized, crop=crop)

    def _nearest(self, width: int, height: int) -> tuple[Size, Size]:
        """The bucket of the nearest aspect ratio, and the size that covers it."""
        aspect = width / height
        bucket = (width, height)
        if bucket not in self.sizes:
            bucket = min(self.sizes, key=lambda size: abs(size[0] / size[1] - aspect))
        wider = aspect > bucket[0] / bucket[1]
        scale = bucket[1] / height if wider else bucket[0] / width
        return bucket, (int(width * scale + 0.5), int(height * scale + 0.5))

    def _own_size(self, width: int, height: int) -> tuple[Size, Size]:
        """The image's own size, shrunk to the area where it is larger, cut to whole steps."""
        resized = (width, height)
        if width * height > self.resolution[0] * self.resolution[1]:
            resized = self._shrunk(width / height)
        return (self._floor(resized[0]), self._floor(resized[1])), resized

    def _shrunk(self, aspect: float) -> Size:
        """The size of the training area at `aspect`, with the side in whole steps that keeps
        the aspect ratio better."""
        width = math.sqrt(self.resolution[0] * self.resolution[1] * aspect)
        height = self.resolution[0] * self.resolution[1] / width
        stepped_width = self._round(width)
        stepped_height = self._round(height)
        height_of_it = self._round(stepped_width / aspect)
        if min(stepped_width, stepped_height, height_of_it) < 1:
            raise ValueError(
                msg("no bucket is as narrow as an aspect ratio of {aspect}", aspect=f"{aspect:.3g}")
            )
        by_width = stepped_width / height_of_it
        by_height = self._round(stepped_height * aspect) / stepped_height
        if abs(by_width - aspect) < abs(by_height - aspect):
            return stepped_width, int(stepped_width / aspect + 0.5)
        return int(stepped_height * aspect + 0.5), stepped_height

    def _floor(self, side: int) -> int:
        return side - side % self.steps

    def _round(self, side: float) -> int:
        return self._floor(int(side + 0.5))


def make_buckets(
    *,
    resolution: Size,
    enable_bucket: bool,
    min_bucket_reso: int = 256,
    max_bucket_reso: int = 1024,
    bucket_reso_steps: int = 64,
    bucket_no_upscale: bool = False,
) -> Buckets:
    """The buckets for a training resolution; without `enable_bucket` there is one, its own size.

    `min_bucket_reso` is rounded down and `max_bucket_reso` up to whole steps. Raises ValueError,
    in words for the user, where the three contradict each other.
    """
    if not enable_bucket:
        return Buckets(resolution=resolution, steps=1, no_upscale=False, sizes=(resolution,))
    if bucket_reso_steps < 1:
        raise ValueError(
            msg(
                "bucket_reso_steps is {bucket_reso_steps}; it must be 1 or more",
                bucket_reso_steps=bucket_reso_steps,
            )
        )
    smallest = min_bucket_reso - min_bucket_reso % bucket_reso_steps
    largest = max_bucket_reso + -max_bucket_reso % bucket_reso_steps
    if min(resolution) < smallest:
        raise ValueError(
            msg(
                "min_bucket_reso {smallest} is above the resolution {resolution}",
                smallest=smallest,
                resolution=min(resolution),
            )
        )
    if max(resolution) > largest:
        raise ValueError(
            msg(
                "max_bucket_reso {largest} is below the resolution {resolution}",
                largest=largest,
                resolution=max(resolution),
            )
        )
    sizes: tuple[Size, ...] = ()
    if not bucket_no_upscale:
        sizes = _sizes(resolution, max(smallest, bucket_reso_steps), largest, bucket_reso_steps)
        if not sizes:
            raise ValueError(
                msg(
                    "no bucket of {bucket_reso_steps}-pixel steps fits a resolution of"
                    " {resolution}x{resolution2}",
                    bucket_reso_steps=bucket_reso_steps,
                    resolution=resolution[0],
                    resolution2=resolution[1],
                )
            )
    return Buckets(
        resolution=resolution, steps=bucket_reso_steps, no_upscale=bucket_no_upscale, sizes=sizes
    )


def widest_bucket(resolution: Size) -> int:
    """The longest side that no picture up to 4:1 outgrows at the area of `resolution`, in whole
    steps of 64 pixels: 1024 at 512, 2048 at 1024.

    The latter is the longest side in the table of sizes that SDXL was trained at (arXiv 2307.01952,
    appendix I: 512×2048 to 2048×512).
    """
    longest = 2 * math.sqrt(resolution[0] * resolution[1])
    return max(*resolution, math.ceil(longest / 64 - 1e-9) * 64)


def _sizes(resolution: Size, smallest: int, largest: int, steps: int) -> tuple[Size, ...]:
    area = resolution[0] * resolution[1]
    square = int(math.sqrt(area) // steps) * steps
    found = {(square, square)} if square else set[Size]()
    for width in range(smallest, largest + 1, steps):
        height = min(largest, area // width // steps * steps)
        if height >= smallest:
            found |= {(width, height), (height, width)}
    return tuple(sorted(found))


def batches_per_epoch(images_by_bucket: Mapping[Size, int], batch_size: int) -> int:
    """How many batches an epoch has: a batch never mixes buckets, the last of each may be short.

    `images_by_bucket` counts images with their repeats.
    """
    return sum(math.ceil(count / batch_size) for count in images_by_bucket.values())
