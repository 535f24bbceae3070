"""Latents of the pictures, made once before the training and cached in memory and on disk.

A file on disk is named by a digest of what it depends on (the picture's bytes, its cut, the VAE,
the version of this code), so a changed picture or VAE never finds an outdated file.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import interpolate

from tenner.core.files import write_atomically
from tenner.core.messages import msg
from tenner.core.train_job import TrainItem, TrainJob
from tenner.engines.native.rng import python_rng, torch_rng
from tenner.engines.native.vae import VaeEncoder

_VERSION = "1"
NUM_RANDOM_CUTS = 8
"""Views that are encoded of a picture with `random_crop`; each sample shows one of them."""


class NoPictureError(Exception):
    """A picture cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One view of a picture: the corner of its cut in pixels of the resized picture, and whether it
    is mirrored.

    Its `repr` is part of the cache's keys, and these seed the VAE's noise: renaming this class or
    a field changes what a run with the same seed trains.
    """

    left: int
    top: int
    mirrored: bool


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One view's latents [4, h, w] in fp32, scaled by the VAE's scaling factor, and SDXL's sizes:
    (original height, width, crop top, left, target height, width) in pixels. `mask` [h, w], 0 to 1,
    is the factor of the loss at each position; None is 1 everywhere."""

    latents: Tensor
    sizes: tuple[int, int, int, int, int, int]
    mask: Tensor | None = None


class LatentCache:
    """The latents of every view of every picture; `views[i]` are those of item i."""

    def __init__(self, job: TrainJob, views: list[list[Encoded]]) -> None:
        self._job = job
        self._views = views

    def pick(self, index: int, position: int) -> Encoded:
        """A view of item `index` for the sample at `position` in the run."""
        views = self._views[index]
        if len(views) == 1:
            return views[0]
        return python_rng(self._job.seed, "view", position).choice(views)


def masks_of(views: Sequence[Encoded], device: torch.device) -> Tensor | None:
    """The masks of a batch, [n, 1, h, w]; 1 for a picture without one. None where all are."""
    if all(view.mask is None for view in views):
        return None
    masks = [
        torch.ones(view.latents.shape[1:]) if view.mask is None else view.mask for view in views
    ]
    return torch.stack(masks)[:, None].to(device)


def cuts_of(job: TrainJob, item: TrainItem) -> list[Cut]:
    """The views that are encoded of a picture: one, or several random ones, each mirrored too where
    `flip_aug` is set."""
    margin = (max(0, item.resized[0] - item.bucket[0]), max(0, item.resized[1] - item.bucket[1]))
    if item.random_crop and any(margin):
        rng = python_rng(job.seed, "cuts", item.image)
        corners = [
            (rng.randint(0, margin[0]), rng.randint(0, margin[1])) for _ in range(NUM_RANDOM_CUTS)
        ]
    else:
        left = margin[0] // 2 if item.crop_left is None else item.crop_left
        top = margin[1] // 2 if item.crop_top is None else item.crop_top
        corners = [(left, top)]
    mirrors = (False, True) if job.flip_aug else (False,)
    return [
        Cut(left=left, top=top, mirrored=mirrored)
        for left, top in dict.fromkeys(corners)
        for mirrored in mirrors
    ]


def encode_all(
    job: TrainJob,
    load_vae: Callable[[], VaeEncoder],
    vae_name: str,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> LatentCache:
    """The latents of all items. The VAE is loaded only if a file is missing in the cache.

    `vae_name` distinguishes VAEs in the cache (`vae_fingerprint`). Raises NoPictureError for a
    picture that cannot be read or is encoded to values that are not finite.
    """
    encoder = _Encoder(job, load_vae, vae_name, device)
    views: list[list[Encoded]] = []
    for done, item in enumerate(job.items):
        views.append(list(encoder.views(item)))
        progress(done + 1, len(job.items))
    return LatentCache(job, views)


class _Encoder:
    def __init__(
        self, job: TrainJob, load_vae: Callable[[], VaeEncoder], vae_name: str, device: torch.device
    ) -> None:
        self._job = job
        self._load_vae = load_vae
        self._vae: VaeEncoder | None = None
        self._vae_name = vae_name
        self._device = device
        self._folder = Path(job.cache_dir) if job.cache_dir else None

    def views(self, item: TrainItem) -> Iterator[Encoded]:
        try:
            content = Path(item.image).read_bytes()
            picture, alpha = _opened(item, keeps_alpha=self._job.alpha_mask)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise NoPictureError(
                msg("{name} cannot be read: {error}", name=Path(item.image).name, error=error)
            ) from error
        original = item.original or picture.size
        resized = _resized(picture, item.resized)
        mask = _resized(alpha, item.resized) if alpha else None
        for cut in cuts_of(self._job, item):
            key = _key(content, item, cut, self._vae_name + ("+alpha" if mask else ""))
            latents = self._stored(key)
            if latents is None:
                latents = self._encode(resized, item, cut, key)
                self._store(key, latents)
            left = item.resized[0] - item.bucket[0] - cut.left if cut.mirrored else cut.left
            yield Encoded(
                latents=latents,
                sizes=(
                    *(original[1], original[0], cut.top, max(0, left)),
                    *(item.bucket[1], item.bucket[0]),
                ),
                mask=_mask(mask, item.bucket, cut, latents) if mask else None,
            )

    @torch.no_grad()
    def _encode(self, picture: Image.Image, item: TrainItem, cut: Cut, key: str) -> Tensor:
        if self._vae is None:
            self._vae = self._load_vae().to(self._device)
        pixels = _pixels(picture, item.bucket, cut).to(self._device)
        mean, std = self._vae.encode(pixels[None])
        # A sample of the distribution, as sd-scripts caches it, the same in every run (seed 0): so
        # a cache that two runs share does not depend on which of them made it.
        noise = torch.randn(mean.shape, generator=torch_rng(0, "vae", key))
        latents = mean + std * noise.to(mean)
        scaled = (latents - self._vae.shift_factor) * self._vae.scaling_factor
        if not bool(torch.isfinite(scaled).all()):
            raise NoPictureError(
                msg("{name} is encoded to values that are not finite", name=Path(item.image).name)
            )
        return scaled[0].float().cpu()

    def _stored(self, key: str) -> Tensor | None:
        path = self._folder / f"{key}.safetensors" if self._folder else None
        if path is None or not path.is_file():
            return None
        try:
            return load_file(path)["latents"]
        except (SafetensorError, KeyError, OSError):
            return None  # an incomplete file of another attempt is replaced

    def _store(self, key: str, latents: Tensor) -> None:
        if self._folder:
            content = save({"latents": latents.contiguous()})
            write_atomically(self._folder / f"{key}.safetensors", content)


def _opened(item: TrainItem, *, keeps_alpha: bool) -> tuple[Image.Image, Image.Image | None]:
    """The picture upright and in RGB, and its alpha where that is requested and there is one.

    Transparent parts become white, or with `keeps_alpha` stay as they are stored.
    """
    with Image.open(item.image) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            layered = upright.convert("RGBA")
            if keeps_alpha:
                return layered.convert("RGB"), layered.getchannel("A")
            ground = Image.new("RGBA", layered.size, "white")
            return Image.alpha_composite(ground, layered).convert("RGB"), None
        return upright.convert("RGB"), None


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`picture` at `size` (width, height), as sd-scripts resizes: smaller by area, larger by
    Lanczos."""
    if picture.size == size:
        return picture
    smaller = picture.width > size[0] and picture.height > size[1]
    method = Image.Resampling.BOX if smaller else Image.Resampling.LANCZOS
    return picture.resize(size, method)


def _pixels(picture: Image.Image, size: tuple[int, int], cut: Cut) -> Tensor:
    """A view's pixels, [3, height, width] in fp32 from -1 to 1."""
    region = picture.crop((cut.left, cut.top, cut.left + size[0], cut.top + size[1]))
    values = torch.from_numpy(np.array(region, dtype=np.uint8)).permute(2, 0, 1)
    values = values.flip(2) if cut.mirrored else values
    return values.float() / 127.5 - 1.0


def _mask(alpha: Image.Image, size: tuple[int, int], cut: Cut, latents: Tensor) -> Tensor:
    """The alpha of a view at the latents' resolution, by areas: [h, w] from 0 to 1."""
    region = alpha.crop((cut.left, cut.top, cut.left + size[0], cut.top + size[1]))
    values = torch.from_numpy(np.array(region, dtype=np.float32)) / 255.0
    values = values.flip(1) if cut.mirrored else values
    shape = (latents.shape[1], latents.shape[2])
    return interpolate(values[None, None], size=shape, mode="area")[0, 0]


def _key(content: bytes, item: TrainItem, cut: Cut, vae_name: str) -> str:
    digest = hashlib.sha256(content)
    digest.update(repr((_VERSION, vae_name, item.bucket, item.resized, cut)).encode())
    return digest.hexdigest()


def vae_fingerprint(paths: Sequence[Path]) -> str:
    """A name for a VAE: the digest of its weight files' sizes and first and last mebibyte."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            size = path.stat().st_size
            digest.update(str(size).encode() + file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]
