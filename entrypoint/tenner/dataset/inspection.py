"""The dataset from what the user named to a clean working copy: fetched, read, judged, copied.

Shows the whole of it; each step has its own module.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from tenner.core.errors import DatasetError, Problem, errors_in
from tenner.core.messages import as_message, msg
from tenner.dataset.fetch import fetch
from tenner.dataset.findings import Finding
from tenner.dataset.items import Dataset, ImageItem, judge_regularisation, spread_regularisation
from tenner.dataset.judge_buckets import buckets_of as make_buckets_of
from tenner.dataset.judge_buckets import judge_buckets
from tenner.dataset.reading import OnProgress, Source, Tree, read_tree
from tenner.dataset.request import DatasetRequest
from tenner.dataset.working_copy import make_working_copy
from tenner.kohya.buckets import Buckets
from tenner.settings.subsets import SubsetRequest
from tenner.storage.http import OnBytes

__all__ = ["Dataset", "ImageItem", "inspect_dataset", "judge_dataset", "read_sources"]


ONLY_HEADS = Finding(
    kind="only_heads",
    level="note",
    text=msg("only the heads of the images were read: a damaged, blurred or dark one is not seen"),
    fix=msg("tenner check decodes them, as train does before it begins"),
)
"""What a plan notes of images that it has not decoded."""


def inspect_dataset(
    request: DatasetRequest,
    workdir: Path,
    on_progress: OnProgress | None = None,
    on_bytes: OnBytes | None = None,
) -> Dataset:
    """Judge the dataset and make its working copy in `workdir`.

    Raises DatasetError with every problem that forbids training on it.
    """
    buckets = buckets_of(request)
    request = replace(request, skip=(*request.skip, workdir))
    sources, findings = judge_dataset(request, on_progress, on_bytes)
    images = [image for source in sources for image in source.images]
    if not request.decodes:
        return _planned(request, buckets, sources, findings)
    train = [image for image in images if not image.is_reg]
    reg = [image for image in images if image.is_reg]
    copied = make_working_copy(train, workdir / "train", request=request)
    copied_reg = make_working_copy(reg, workdir / "reg", request=request) if reg else None
    paths = [*copied.paths, *(copied_reg.paths if copied_reg else ())]
    items = [replace(image, path=path) for image, path in zip((*train, *reg), paths, strict=True)]
    trained, held_out = hold_out(items, request.validation_split, request.validation_seed)
    corrected = [note for source in sources for note in source.corrected]
    corrected += [*copied.corrected, *(copied_reg.corrected if copied_reg else ())]
    return Dataset(
        images=spread_regularisation(trained),
        buckets=buckets,
        trigger=request.trigger or common_trigger(sources),
        train_dir=workdir / "train",
        reg_dir=workdir / "reg" if reg else None,
        findings=tuple(findings),
        left_out=tuple(note for source in sources for note in source.left_out),
        corrected=tuple(corrected),
        num_captions=sum(source.num_captions for source in sources),
        content_hash=content_hash(items),
        held_out=held_out,
    )


def _planned(
    request: DatasetRequest, buckets: Buckets, sources: Sequence[Source], findings: list[Finding]
) -> Dataset:
    """The dataset as heads show it, for a plan: no working copy, and no hash of its content."""
    items = [
        replace(image, path=image.source_path) for source in sources for image in source.images
    ]
    items.sort(key=lambda image: image.is_reg)
    trained, held_out = hold_out(items, request.validation_split, request.validation_seed)
    return Dataset(
        images=spread_regularisation(trained),
        buckets=buckets,
        trigger=request.trigger or common_trigger(sources),
        train_dir=Path(),
        reg_dir=None,
        findings=(*findings, ONLY_HEADS),
        left_out=tuple(note for source in sources for note in source.left_out),
        corrected=(),
        num_captions=sum(source.num_captions for source in sources),
        content_hash="",
        held_out=held_out,
    )


def judge_dataset(
    request: DatasetRequest,
    on_progress: OnProgress | None = None,
    on_bytes: OnBytes | None = None,
) -> tuple[list[Source], list[Finding]]:
    """Every tree, and what was found in all of them; nothing is written.

    Raises DatasetError with every problem that forbids training on it.
    """
    sources = read_sources(request, on_progress, on_bytes=on_bytes)
    findings = judge_whole(sources, request)
    if errors := errors_in([finding.problem for finding in findings]):
        raise DatasetError(problems=errors)
    return sources, findings


def judge_whole(sources: Sequence[Source], request: DatasetRequest) -> list[Finding]:
    """What was found in each tree, and in all of them together."""
    images = [image for source in sources for image in source.images]
    return [
        *(finding for source in sources for finding in source.findings),
        *judge_regularisation(images),
        *judge_buckets(spread_regularisation(images), request),
    ]


def read_sources(
    request: DatasetRequest,
    on_progress: OnProgress | None = None,
    thumbs: Path | None = None,
    on_bytes: OnBytes | None = None,
) -> list[Source]:
    """Every tree of the request, fetched, read and judged.

    Raises DatasetError where one cannot be fetched or listed: all of them are tried first.
    """
    problems: list[Problem] = []
    trees: list[Tree] = []
    for source, tree in _named_trees(request, thumbs):
        try:
            trees.append(
                replace(tree, root=fetch(source, request, on_bytes), name=_given_name(source))
            )
        except DatasetError as error:
            problems += error.problems
    if problems:
        raise DatasetError(problems=problems)
    if not trees:
        fix = msg("set dataset = FOLDER, or put images into the default one")
        raise DatasetError(msg("no dataset was named"), fix=fix)
    try:
        return [read_tree(tree, request, on_progress) for tree in trees]
    except OSError as error:
        raise DatasetError(
            msg("the dataset cannot be read: {error}", error=error),
            fix=msg("check the folder and its rights"),
        ) from error


def _named_trees(request: DatasetRequest, thumbs: Path | None) -> list[tuple[str, Tree]]:
    """What the user named, in order, as trees whose roots are not known yet."""

    def tree(subset: SubsetRequest | None, *, is_reg: bool, part: str) -> Tree:
        extension = subset.caption_extension if subset else None
        return Tree(
            root=Path(),
            name="",
            is_reg=is_reg,
            trigger=None if is_reg else (subset.trigger if subset else None) or request.trigger,
            caption_extension=extension or request.caption_extension,
            thumbs=thumbs / part if thumbs else None,
            drafts=request.drafts / part if request.drafts and not is_reg else None,
            subset=subset,
            caption_prefix=_own(subset and subset.caption_prefix, request.caption_prefix),
            caption_suffix=_own(subset and subset.caption_suffix, request.caption_suffix),
        )

    named: list[tuple[str, Tree]] = []
    if request.source:
        named.append((request.source, tree(None, is_reg=False, part="train")))
    for number, subset in enumerate(request.subsets):
        each = tree(subset, is_reg=subset.is_reg, part=f"subset{number}")
        named.append((subset.image_dir, each))
    if request.reg_data_dir:
        named.append((request.reg_data_dir, tree(None, is_reg=True, part="reg")))
    return named


def _own(own: str | None, general: str) -> str:
    return general if own is None else own


def _given_name(source: str) -> str:
    """`10_cat` of `~/data/10_cat`, `10_cat.zip` and `s3://bucket/10_cat/`: it may name repeats."""
    if "://" in source:
        return _without_archive_suffix(urlsplit(source).path.rstrip("/").rpartition("/")[2])
    path = Path(source).expanduser().absolute()
    return path.resolve().name if path.is_dir() else _without_archive_suffix(path.name)


def _without_archive_suffix(name: str) -> str:
    return re.sub(r"(\.tar)?\.(zip|tar|tgz|gz|bz2|xz|zst|tbz2|txz|tzst)$", "", name, flags=re.I)


def buckets_of(request: DatasetRequest) -> Buckets:
    """The request's buckets. Raises DatasetError where its numbers contradict each other."""
    try:
        return make_buckets_of(request)
    except ValueError as error:
        fix = msg("change min_bucket_reso, max_bucket_reso or resolution")
        raise DatasetError(as_message(str(error)), fix=fix) from None


def common_trigger(sources: Sequence[Source]) -> str:
    """The word that calls the concept, where the training trees agree on one."""
    words = {source.trigger for source in sources if not source.is_reg}
    return words.pop() if len(words) == 1 else ""


def hold_out(
    items: Sequence[ImageItem], share: float, seed: int
) -> tuple[tuple[ImageItem, ...], tuple[ImageItem, ...]]:
    """The images to train on, and those held out: `share` of the training images, at least one
    where it is not 0, never all. The choice depends on their content, not on their order."""
    train = [item for item in items if not item.is_reg]
    count = min(len(train) - 1, max(1, round(share * len(train)))) if share > 0 else 0

    def rank(item: ImageItem) -> str:
        name = f"{seed} {item.facts.sha256} {item.source}"
        return sha256(name.encode(errors="surrogateescape")).hexdigest()

    chosen = {id(item) for item in sorted(train, key=rank)[: max(0, count)]}
    trained = tuple(item for item in items if id(item) not in chosen)
    return trained, tuple(item for item in items if id(item) in chosen)


def content_hash(items: Sequence[ImageItem]) -> str:
    """Changes with any pixel, caption or repeat."""
    digest = sha256()
    for item in sorted(items, key=lambda each: (each.is_reg, each.source)):
        mask = f"{item.mask.sha256} " if item.mask else ""
        line = f"{item.facts.sha256} {mask}{item.num_repeats} {item.is_reg} {item.caption}\n"
        digest.update(line.encode())
    return digest.hexdigest()
