"""Masks in files of their own: which part of each image the loss counts.

A folder named by a subset as `conditioning_data_dir` holds a picture of the same name for every
image; where it is white the image is learnt, where it is black it is not. The working copy carries
the mask as the image's alpha channel, which both trainers read with `alpha_mask`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from tenner.core.messages import Message, msg, plural
from tenner.dataset.findings import Finding, names
from tenner.dataset.listing import FileEntry, list_files


@dataclass(frozen=True, kw_only=True)
class Mask:
    """The mask of one image, and the SHA-256 of its file."""

    path: Path
    sha256: str


def find_masks(
    folder: Path, images: Sequence[FileEntry]
) -> tuple[Mapping[str, Mask], list[Finding]]:
    """The mask of each image path. An image without one is an error: it would be learnt whole."""
    try:
        entries = list_files(folder)
    except OSError as error:
        text = msg(
            "the masks in {folder} cannot be read: {strerror}",
            folder=folder,
            strerror=error.strerror or error,
        )
        return {}, [_error(text, msg("correct conditioning_data_dir, or remove it"), ())]
    by_stem = {entry.stem.casefold(): entry for entry in entries if entry.kind == "image"}
    found: dict[str, Mask] = {}
    missing: list[str] = []
    for image in images:
        entry = by_stem.get(image.stem.casefold())
        if entry is None:
            missing.append(image.path)
            continue
        with (folder / entry.path).open("rb") as opened:
            digest = file_digest(opened, "sha256").hexdigest()
        found[image.path] = Mask(path=folder / entry.path, sha256=digest)
    if not missing:
        return found, []
    text = msg(
        "{images} without a mask in {folder}: {names}",
        images=plural("{n} image", "{n} images", len(missing)),
        folder=folder,
        names=names(missing),
    )
    fix = msg("add a mask of the same name, all white where the whole image counts")
    return found, [_error(text, fix, missing)]


def _error(text: Message, fix: Message, files: Sequence[str]) -> Finding:
    return Finding(kind="mask", level="error", text=text, fix=fix, files=tuple(files))
