"""The dataset from folder to clean working copy: listed, read, decoded whole, judged, copied.

The one place where the whole of it can be read; each step has its own module.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from tenner.dataset.buckets import BucketPlace, Buckets, Size, batches_per_epoch, make_buckets
from tenner.dataset.captions import Caption, find_caption_files, read_captions
from tenner.dataset.facts import ImageFacts, Unreadable, facts_from_json
from tenner.dataset.findings import FileNote, Finding
from tenner.dataset.judge_captions import judge_captions, with_trigger
from tenner.dataset.judge_images import judge_images, judge_unreadable
from tenner.dataset.listing import FileEntry, list_files
from tenner.dataset.request import DatasetRequest
from tenner.dataset.view import View, build_view
from tenner.dataset.workers import WorkerPool, path_field
from tenner.dataset.working_copy import Copied, make_working_copy
from tenner.errors import DatasetError, Problem, errors_in

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ImageItem:
    """One image as it will be trained. `path` is the working copy's, `source` the user's name.

    `width` and `height` are upright pixels of the source.
    """

    path: Path
    source: str
    caption: str
    num_repeats: int
    concept: str
    is_reg: bool
    facts: ImageFacts

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
    left_out: tuple[FileNote, ...]
    mended: tuple[FileNote, ...]
    num_captions: int
    content_hash: str

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

    def place_of(self, image: ImageItem) -> BucketPlace:
        return self.buckets.assign(*image.size)

    def images_by_bucket(self) -> dict[Size, int]:
        """Images with their repeats in each bucket."""
        counts: Counter[Size] = Counter()
        for image in self.images:
            counts[self.place_of(image).bucket] += image.num_repeats
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
                    "source": image.source,
                    "caption": image.caption,
                    "num_repeats": image.num_repeats,
                    "is_reg": image.is_reg,
                    "width": image.facts.width,
                    "height": image.facts.height,
                    "sha256": image.facts.sha256,
                }
                for image in self.images
            ],
            "findings": [asdict(finding) for finding in self.findings],
            "left_out": [asdict(note) for note in self.left_out],
            "mended": [asdict(note) for note in self.mended],
        }


def inspect_dataset(
    request: DatasetRequest, workdir: Path, on_progress: OnProgress | None = None
) -> Dataset:
    """Judge the dataset and make its working copy in `workdir`.

    Raises DatasetError with every problem that forbids training on it.
    """
    buckets = _buckets(request)
    train = _read_source(request, Path(request.source), is_reg=False, on_progress=on_progress)
    reg = (
        _read_source(request, Path(request.reg_data_dir), is_reg=True, on_progress=on_progress)
        if request.reg_data_dir
        else None
    )
    sources = [each for each in (train, reg) if each is not None]
    findings = [finding for source in sources for finding in source.findings]
    errors = errors_in([finding.problem for finding in findings])
    if errors:
        raise DatasetError(problems=errors)
    items: list[ImageItem] = []
    copies: list[Copied] = []
    for source, folder in zip(sources, (workdir / "train", workdir / "reg"), strict=False):
        copied = make_working_copy(source.root, source.images, folder, request=request)
        copies.append(copied)
        items += [
            replace(image, path=path)
            for image, path in zip(source.images, copied.paths, strict=True)
        ]
    return Dataset(
        images=tuple(items),
        buckets=buckets,
        trigger=train.trigger,
        train_dir=workdir / "train",
        reg_dir=workdir / "reg" if reg else None,
        findings=tuple(finding for finding in findings if finding.level != "error"),
        left_out=tuple(note for source in sources for note in source.left_out),
        mended=tuple(
            note
            for each in (*(source.mended for source in sources), *(copy.mended for copy in copies))
            for note in each
        ),
        num_captions=train.num_captions,
        content_hash=_hash(items),
    )


@dataclass(frozen=True, kw_only=True)
class _Source:
    """One tree, read and judged; its images do not have working copies yet."""

    root: Path
    images: tuple[ImageItem, ...]
    trigger: str
    num_captions: int
    findings: tuple[Finding, ...]
    left_out: tuple[FileNote, ...]
    mended: tuple[FileNote, ...]


def _buckets(request: DatasetRequest) -> Buckets:
    try:
        return make_buckets(
            resolution=request.resolution,
            enable_bucket=request.enable_bucket,
            min_bucket_reso=request.min_bucket_reso,
            max_bucket_reso=request.max_bucket_reso,
            bucket_reso_steps=request.bucket_reso_steps,
            bucket_no_upscale=request.bucket_no_upscale,
        )
    except ValueError as error:
        fix = "change min_bucket_reso, max_bucket_reso or resolution"
        raise DatasetError(str(error), fix=fix) from None


def _read_source(
    request: DatasetRequest, root: Path, *, is_reg: bool, on_progress: OnProgress | None
) -> _Source:
    root = root.expanduser()
    if not root.is_dir():
        raise DatasetError(
            f"the dataset {root} is {'a file' if root.exists() else 'not there'}",
            fix="name a folder of images; in a container, mount it:"
            " -v ./training_data:/workspace/training_data:ro",
        )
    entries = list_files(root)
    view = build_view(
        entries,
        root_name=root.resolve().name,
        num_repeats=request.num_repeats,
        is_reg=is_reg,
    )
    caption_files = find_caption_files(
        [image for concept in view.concepts for image in concept.images],
        entries,
        request.caption_extension,
    )
    captions, caption_findings = read_captions(
        view.concepts,
        caption_files,
        lambda path: (root / path).read_bytes(),
        trigger=request.trigger,
    )
    facts = _decode(view, root, request, on_progress)
    good, left_out = _sort_out(facts)
    findings = [*view.findings, *caption_files.findings, *caption_findings]
    findings += judge_unreadable(left_out, num_images=len(facts))
    findings += judge_images(good, resolution=request.resolution, is_reg=is_reg)
    trigger = _trigger(request, view, captions)
    if not is_reg:
        findings += judge_captions(
            {path: captions[path] for path in good},
            triggers=dict.fromkeys(good, request.trigger) if request.trigger else {},
            extension=caption_files.extension,
            add_trigger=request.add_trigger,
            max_token_length=request.max_token_length,
        )
    return _Source(
        root=root,
        images=_items(view, good, captions, request),
        trigger=trigger,
        num_captions=sum(captions[path].file is not None for path in good),
        findings=tuple(findings),
        left_out=(*view.left_out, *left_out, *_not_images(entries)),
        mended=view.mended,
    )


def _decode(
    view: View, root: Path, request: DatasetRequest, on_progress: OnProgress | None
) -> dict[str, ImageFacts | Unreadable]:
    paths = [image.path for concept in view.concepts for image in concept.images]
    area = request.resolution[0] * request.resolution[1]
    tasks = [
        {"do": "inspect", "path": path_field(root / path), "training_area": area} for path in paths
    ]
    with WorkerPool(request.num_workers, request.image_timeout_seconds) as pool:
        answers = pool.run(tasks, on_progress)
    return {path: facts_from_json(answer) for path, answer in zip(paths, answers, strict=True)}


def _sort_out(
    facts: Mapping[str, ImageFacts | Unreadable],
) -> tuple[dict[str, ImageFacts], tuple[FileNote, ...]]:
    good = {path: found for path, found in facts.items() if isinstance(found, ImageFacts)}
    bad = tuple(
        FileNote(path=path, why=found.reason)
        for path, found in facts.items()
        if isinstance(found, Unreadable)
    )
    return good, bad


def _items(
    view: View,
    good: Mapping[str, ImageFacts],
    captions: Mapping[str, Caption],
    request: DatasetRequest,
) -> tuple[ImageItem, ...]:
    def text(path: str, *, is_reg: bool) -> str:
        said = captions[path].text
        add = request.add_trigger and request.trigger and not is_reg
        return with_trigger(said, request.trigger or "") if add else said

    return tuple(
        ImageItem(
            path=Path(image.path),
            source=image.path,
            caption=text(image.path, is_reg=concept.is_reg),
            num_repeats=concept.num_repeats,
            concept=concept.class_tokens,
            is_reg=concept.is_reg,
            facts=good[image.path],
        )
        for concept in view.concepts
        for image in concept.images
        if image.path in good
    )


def _trigger(request: DatasetRequest, view: View, captions: Mapping[str, Caption]) -> str:
    """What calls the concept: the user's word, else the folder's words where they stand for
    captions or in each of them."""
    if request.trigger:
        return request.trigger
    words = {concept.class_tokens for concept in view.concepts if not concept.is_reg}
    if len(words) != 1:
        return ""
    word = words.pop()
    return word if all(word in caption.text for caption in captions.values()) else ""


def _not_images(entries: Sequence[FileEntry]) -> tuple[FileNote, ...]:
    return tuple(
        FileNote(path=entry.path, why=entry.why or "no picture")
        for entry in entries
        if entry.kind == "unsupported"
    )


def _hash(items: Sequence[ImageItem]) -> str:
    digest = sha256()
    for item in sorted(items, key=lambda each: (each.is_reg, each.source)):
        line = f"{item.facts.sha256} {item.num_repeats} {item.is_reg} {item.caption}\n"
        digest.update(line.encode())
    return digest.hexdigest()
