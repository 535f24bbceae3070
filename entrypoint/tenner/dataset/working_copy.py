"""The clean tree that an engine gets: never the user's folder, and nothing in it to stumble on.

Files that need nothing are linked, the others are converted to PNG. Captions are UTF-8 `.txt`. A
second start converts nothing anew, and keeps what a trainer cached beside an image (`.npz`) as long
as the image and its caption are the same.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from tenner.core.errors import DatasetError
from tenner.core.files import write_json
from tenner.core.messages import joined, msg
from tenner.dataset.findings import FileIssue
from tenner.dataset.request import DatasetRequest
from tenner.dataset.workers import WorkerPool, path_field

if TYPE_CHECKING:
    from tenner.dataset.items import ImageItem

READ_BY_TRAINERS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp"))
"""Endings that sd-scripts looks for, in lower case."""

WHAT_WAS_DONE = {
    "upright": msg("turned upright by its EXIF"),
    "alpha": msg("transparency filled"),
    "16-bit": msg("converted to 8 bits"),
    "cmyk": msg("CMYK converted to sRGB"),
    "profile": msg("converted to sRGB through its profile"),
    "format": msg("converted to PNG"),
    "frames": msg("its first frame taken"),
    "mask": msg("given its mask as alpha channel"),
}


@dataclass(frozen=True, kw_only=True)
class Copied:
    """The paths of the working copies, in the images' order, and what was changed."""

    paths: tuple[Path, ...]
    corrected: tuple[FileIssue, ...]


def make_working_copy(
    images: Sequence["ImageItem"], folder: Path, *, request: DatasetRequest
) -> Copied:
    """Bring the tree in `folder` up to date. Raises DatasetError where it cannot be written."""
    paths = [_target(folder, number, image) for number, image in enumerate(images)]
    both = list(zip(paths, images, strict=True))
    contents = {
        path.relative_to(folder).as_posix(): _content(image, request) for path, image in both
    }
    try:
        unchanged = _clear(folder, contents)
        for path, image in both:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".txt").write_text(image.caption + "\n", encoding="utf-8")
            if not _needs(image) and path not in unchanged:
                _link(image.source_path.absolute(), path)
    except OSError as error:
        raise DatasetError(
            msg("the working copy of the dataset cannot be written: {error}", error=error),
            fix=msg("free disk space, or choose another output_dir"),
        ) from error
    changed = [(path, image) for path, image in both if _needs(image)]
    _convert([each for each in changed if each[0] not in unchanged], request)
    write_json(_note(folder), {name: asdict(content) for name, content in contents.items()})
    corrected = tuple(
        FileIssue(
            path=image.source,
            why=joined(*(WHAT_WAS_DONE[need] for need in _needs(image)), separator=", "),
        )
        for _, image in changed
    )
    return Copied(paths=tuple(paths), corrected=corrected)


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What a file of the tree holds: `image` names its pixels and where they are linked from."""

    image: str
    caption: str


def _content(image: "ImageItem", request: DatasetRequest) -> _Content:
    needs = _needs(image)
    made = [image.facts.sha256, *needs]
    made += [str(request.alpha_mask), request.alpha_color] if "alpha" in needs else []
    made += [image.mask.sha256] if image.mask else []
    made += [] if needs else [path_field(image.source_path.absolute())]
    return _Content(image=" ".join(made), caption=sha256(image.caption.encode()).hexdigest()[:16])


def _clear(folder: Path, contents: Mapping[str, _Content]) -> set[Path]:
    """Remove every file that is outdated or unknown; returns the images that stay."""
    noted = _read_note(_note(folder))
    _note(folder).unlink(missing_ok=True)  # a killed start leaves a tree without a note
    same_image = {name for name, each in contents.items() if _image(noted.get(name)) == each.image}
    same = {name.rpartition(".")[0] for name in same_image if noted[name] == contents[name]}
    unchanged: set[Path] = set()
    for path in sorted(folder.rglob("*"), reverse=True) if folder.is_dir() else ():
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif name in same_image and path.exists():
            unchanged.add(path)
        elif not (path.suffix == ".npz" and _stem_of_cache(name) in same):
            path.unlink()
    return unchanged


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-copy.json")


def _image(content: _Content | None) -> str | None:
    return content.image if content else None


def _stem_of_cache(name: str) -> str:
    """`10_cat/00012` of `10_cat/00012_0512x0512_sd.npz`, as sd-scripts names its caches."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file[:5]}"


def _read_note(path: Path) -> dict[str, _Content]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: _Content(**each) for name, each in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _link(source: Path, path: Path) -> None:
    """A link to the user's file, or its copy where links are not to be had."""
    try:
        path.symlink_to(source)
    except OSError:  # Windows without the right to make links, some network file systems
        shutil.copyfile(source, path)


def _convert(changed: Sequence[tuple[Path, "ImageItem"]], request: DatasetRequest) -> None:
    tasks = [
        {
            "do": "convert",
            "path": path_field(image.source_path),
            "target": path_field(path),
            "needs": list(image.facts.needs),
            "alpha_color": request.alpha_color,
            "keep_alpha": request.alpha_mask,
            "mask": path_field(image.mask.path) if image.mask else None,
        }
        for path, image in changed
    ]
    with WorkerPool(request.num_workers, request.image_timeout_seconds) as pool:
        answers = pool.run(tasks)
    failed = [
        f"{image.source}: {answer.get('failed') or answer.get('unreadable')}"
        for (_, image), answer in zip(changed, answers, strict=True)
        if "width" not in answer
    ]
    if failed:
        fix = msg("free disk space, or replace these images")
        raise DatasetError(
            msg("images cannot be converted: {failed}", failed="; ".join(failed[:5])), fix=fix
        )


def _needs(image: "ImageItem") -> tuple[str, ...]:
    suffix = Path(image.source).suffix
    unread = suffix.lower() not in READ_BY_TRAINERS and "format" not in image.facts.needs
    masked = ("mask",) if image.mask else ()
    return (*image.facts.needs, *(("format",) if unread else ()), *masked)


def _target(folder: Path, number: int, image: "ImageItem") -> Path:
    """`10_cat/00012.png`: names that every trainer and file system reads."""
    words = _safe_words(image.concept) or "concept"
    suffix = ".png" if _needs(image) else Path(image.source).suffix.lower()
    return folder / f"{image.num_repeats}_{words}" / f"{number:05d}{suffix}"


def _safe_words(concept: str) -> str:
    """A folder name: no separators or control characters, within what file systems allow."""
    words = re.sub(r"[\x00-\x1f\x7f/\\\ud800-\udfff]+", " ", concept).strip(" .")
    return words.encode()[:120].decode("utf-8", "ignore").strip()
