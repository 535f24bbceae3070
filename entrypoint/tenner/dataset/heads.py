"""Images by their heads alone: size, orientation, format, and files that are no pictures.

What the plan of a run needs, at a hundredth of the time of decoding. What only pixels show is
`decode`'s: a body that is cut or damaged, blur, exposure, transparency, likeness.
"""

import hashlib
import os
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from PIL import Image

from tenner.dataset.decode import (
    HEAD_BYTES,
    TRAINER_FORMATS,
    ZEROS_AT_LEAST,
    UnusableImage,
    check_head,
    check_tail,
    closed_words,
    open_picture,
    why_broken,
)
from tenner.dataset.facts import ImageFacts, Unreadable, facts_from_json
from tenner.dataset.pixels import orientation_of
from tenner.dataset.workers import WorkerPool, path_field

_LATE_TEXT = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
"""Chunks of a PNG that may hold an orientation, and may stand behind its pixels."""


def read_heads(
    paths: Sequence[Path], *, pool: WorkerPool, with_hash: bool
) -> list[ImageFacts | Unreadable]:
    """The facts of each file that its head shows, in order; the rest as in a perfect picture.

    `sha256` is there where two files may be the same, or `with_hash`. Files that a library parses
    whole to open them (AVIF, HEIC) are left to `pool`: one that crashes it costs itself only.
    """
    found = [head_of(path) for path in paths]
    parsed = [index for index, each in enumerate(found) if each is None]
    tasks = [{"do": "head", "path": path_field(paths[index])} for index in parsed]
    answers = pool.run(tasks) if tasks else []
    by_index = {
        index: facts_from_json(answer) for index, answer in zip(parsed, answers, strict=True)
    }
    heads = [each or by_index[index] for index, each in enumerate(found)]
    sizes = Counter(each.num_bytes for each in heads if isinstance(each, ImageFacts))
    return [
        _hashed(path, each)
        if isinstance(each, ImageFacts) and (with_hash or sizes[each.num_bytes] > 1)
        else each
        for path, each in zip(paths, heads, strict=True)
    ]


def head_of(path: Path, *, in_worker: bool = False) -> ImageFacts | Unreadable | None:
    """The facts of one file, without its hash. None for a file that only a worker may open."""
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            check_head(head, num_bytes)
            if head[4:8] == b"ftyp" and not in_worker:
                return None
            _check_end(file, head, num_bytes)
            file.seek(0)
            return _facts(open_picture(file, head, alone=True), file, num_bytes)
    except UnusableImage as error:
        return Unreadable(reason=str(error))
    except OSError as error:
        if error.errno is None:  # Pillow's own, of a head that it cannot read
            return Unreadable(reason=why_broken(error))
        return Unreadable(reason=closed_words(error))
    except Exception as error:  # noqa: BLE001  Pillow's readers raise errors of any kind
        return Unreadable(reason=why_broken(error))


def _check_end(file: IO[bytes], head: bytes, num_bytes: int) -> None:
    """Raises UnusableImage for a JPEG that ends in zeros."""
    if head[:3] != b"\xff\xd8\xff" or num_bytes < ZEROS_AT_LEAST:
        return
    file.seek(-ZEROS_AT_LEAST, os.SEEK_END)
    if not any(file.read(ZEROS_AT_LEAST)):
        file.seek(0)
        check_tail(file.read())


def _facts(image: Image.Image, file: IO[bytes], num_bytes: int) -> ImageFacts:
    orientation = _orientation(image, file)
    frames = int(getattr(image, "n_frames", 1))
    needs = ("upright",) if orientation != 1 else ()
    needs += ("format",) if image.format not in TRAINER_FORMATS else ()
    needs += ("frames",) if frames > 1 and image.format != "MPO" else ()
    width, height = image.size if orientation < 5 else image.size[::-1]
    return ImageFacts(
        sha256="",
        num_bytes=num_bytes,
        format=image.format or "",
        mode=image.mode,
        width=width,
        height=height,
        needs=needs,
        num_frames=frames,
    )


def _orientation(image: Image.Image, file: IO[bytes]) -> int:
    """As `decode` finds it. Pillow decodes a PNG to look behind its pixels: here that is only done
    where something stands there."""
    if image.format != "PNG" or "exif" in image.info or _has_late_text(file):
        return orientation_of(image)
    return orientation_of(image, read=Image.Image.getexif)


def _has_late_text(file: IO[bytes]) -> bool:
    """Whether a PNG has text or EXIF behind its pixels. Leaves `file` where it was."""
    before, seen_pixels = file.tell(), False
    file.seek(8)
    try:
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            seen_pixels = seen_pixels or kind == b"IDAT"
            if seen_pixels and kind in _LATE_TEXT:
                return True
            file.seek(length + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(before)


def _hashed(path: Path, facts: ImageFacts) -> ImageFacts | Unreadable:
    try:
        with path.open("rb") as file:
            return replace(facts, sha256=hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        return Unreadable(reason=closed_words(error))
