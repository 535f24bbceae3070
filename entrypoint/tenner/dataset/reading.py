"""One tree of images, read whole and judged: its view, its captions, the facts of its pixels."""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tenner.core.messages import msg, plural
from tenner.dataset.captions import Caption, find_caption_files, framed, read_captions
from tenner.dataset.facts import ImageFacts, Unreadable, facts_from_json
from tenner.dataset.findings import FileIssue, Finding, names
from tenner.dataset.heads import read_heads
from tenner.dataset.items import ImageItem
from tenner.dataset.judge_captions import judge_captions, with_trigger
from tenner.dataset.judge_images import judge_images, judge_unreadable
from tenner.dataset.listing import CANNOT_BE_READ, FileEntry, list_files
from tenner.dataset.masks import Mask, find_masks
from tenner.dataset.metadata import read_metadata
from tenner.dataset.request import DatasetRequest
from tenner.dataset.text import CaptionText, CaptionUnreadable, read_caption
from tenner.dataset.view import View, build_view, subset_view
from tenner.dataset.workers import WorkerPool, path_field
from tenner.settings.subsets import SubsetRequest

_OF_A_FILE_LEFT_OUT = msg("the caption of a file that is left out")
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A folder to read. `name` is what the user calls it: an archive's is not its cache folder's.

    With `subset` the folder is one concept with its own repeats.
    """

    root: Path
    name: str
    is_reg: bool
    trigger: str | None
    caption_extension: str | None
    thumbs: Path | None = None
    drafts: Path | None = None
    subset: SubsetRequest | None = None
    caption_prefix: str = ""
    caption_suffix: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One tree, read and judged; its images do not have working copies yet."""

    images: tuple[ImageItem, ...]
    trigger: str
    num_captions: int
    findings: tuple[Finding, ...]
    left_out: tuple[FileIssue, ...]
    corrected: tuple[FileIssue, ...]
    num_ignored: int
    is_reg: bool
    thumbs: Path | None = None
    drafts: Path | None = None


def read_tree(tree: Tree, request: DatasetRequest, on_progress: OnProgress | None = None) -> Source:
    """Read and judge `tree`. What forbids training is among the findings, not raised."""
    entries = list_files(tree.root, skip=request.skip)
    view = _view(tree, entries, request)
    images = [image for concept in view.concepts for image in concept.images]
    files = find_caption_files(images, entries, tree.caption_extension)
    table = read_metadata(entries, {image.path for image in images}, tree.root)
    captions, caption_findings = read_captions(
        view.concepts,
        files,
        lambda path: (tree.root / path).read_bytes(),
        trigger=tree.trigger,
        table=table.captions,
    )
    captions = _with_drafts(captions, tree)
    captions = {
        path: framed(
            caption,
            prefix=tree.caption_prefix,
            suffix=tree.caption_suffix,
            all_lines=request.enable_wildcard,
        )
        for path, caption in captions.items()
    }
    masks, mask_findings = _masks(tree, images)
    facts = _facts(view, tree, request, on_progress)
    good, broken = _sort_out(facts)
    findings = [*view.findings, *files.findings, *table.findings, *caption_findings]
    findings += mask_findings
    findings += judge_unreadable(broken, num_images=len(facts))
    if good:
        findings += judge_images(
            good, resolution=request.resolution, is_reg=tree.is_reg, decoded=request.decodes
        )
    if good and not tree.is_reg:
        findings += _about_drafts({path: captions[path] for path in good}, tree)
        findings += judge_captions(
            {path: captions[path] for path in good},
            triggers=dict.fromkeys(good, tree.trigger) if tree.trigger else {},
            extension=files.extension,
            drafted_by=request.drafted_by,
            add_trigger=request.add_trigger,
            max_token_length=request.max_token_length,
            enable_wildcard=request.enable_wildcard,
        )
    used = files.used | table.used
    left_out = [*broken, *_not_used(entries, {image.path for image in images}, used)]
    findings += _about_left_out(left_out[len(broken) :])
    return Source(
        images=_items(tree, view, good, captions, masks, request),
        trigger=_trigger(tree, view, captions),
        num_captions=sum(captions[path].file is not None for path in good),
        findings=tuple(findings),
        left_out=tuple(left_out),
        corrected=view.corrected,
        is_reg=tree.is_reg,
        thumbs=tree.thumbs,
        drafts=tree.drafts,
        num_ignored=sum(entry.kind in ("junk", "cache") for entry in entries),
    )


def _view(tree: Tree, entries: Sequence[FileEntry], request: DatasetRequest) -> View:
    if tree.subset is None:
        return build_view(
            entries, root_name=tree.name, num_repeats=request.num_repeats, is_reg=tree.is_reg
        )
    return subset_view(
        entries,
        root_name=tree.name,
        num_repeats=tree.subset.num_repeats,
        class_tokens=tree.subset.class_tokens,
        is_reg=tree.is_reg,
    )


def draft_name(image: str) -> str:
    """The file of an image's draft in the folder of drafts: `10_cat/a.png.txt`."""
    return f"{image}.txt"


def _with_drafts(captions: Mapping[str, Caption], tree: Tree) -> dict[str, Caption]:
    """The captions, with a draft where there is one and nobody wrote another."""
    found = dict(captions)
    if tree.drafts is None or not tree.drafts.is_dir():
        return found
    for path, caption in captions.items():
        if caption.file is None and (text := _draft(tree.drafts / draft_name(path))):
            found[path] = Caption(
                text=text.first_line, file="draft", lines=text.lines, is_draft=True
            )
    return found


def _draft(path: Path) -> CaptionText | None:
    try:
        text = read_caption(path.read_bytes())
    except (OSError, CaptionUnreadable):
        return None
    return text if text.first_line else None


def _about_drafts(captions: Mapping[str, Caption], tree: Tree) -> list[Finding]:
    drafts = tuple(path for path, caption in captions.items() if caption.is_draft)
    if not drafts:
        return []
    count = plural("{n} caption", "{n} captions", len(drafts))
    return [
        Finding(
            kind="captions_drafted",
            level="note",
            text=msg("{captions} drafted by a model", captions=count),
            fix=msg(
                "read them over in {folder}: your edits there are preserved, and files beside the"
                " images take precedence",
                folder=tree.drafts,
            ),
            files=drafts,
        )
    ]


def _masks(tree: Tree, images: Sequence[FileEntry]) -> tuple[Mapping[str, Mask], list[Finding]]:
    if tree.subset is None or not tree.subset.mask_dir:
        return {}, []
    return find_masks(Path(tree.subset.mask_dir).expanduser(), images)


def _facts(
    view: View, tree: Tree, request: DatasetRequest, on_progress: OnProgress | None
) -> dict[str, ImageFacts | Unreadable]:
    paths = [image.path for concept in view.concepts for image in concept.images]
    if not request.decodes:
        files = [tree.root / path for path in paths]
        with WorkerPool(request.num_workers, request.image_timeout_seconds) as pool:
            heads = read_heads(files, pool=pool, with_hash=request.validation_split > 0)
        return dict(zip(paths, heads, strict=True))
    area = request.resolution[0] * request.resolution[1]
    tasks: list[dict[str, Any]] = [
        {"do": "inspect", "path": path_field(tree.root / path), "training_area": area}
        for path in paths
    ]
    if tree.thumbs:
        tree.thumbs.mkdir(parents=True, exist_ok=True)
        for path, task in zip(paths, tasks, strict=True):
            task["thumb"] = path_field(thumb_path(tree.thumbs, path))
    with WorkerPool(request.num_workers, request.image_timeout_seconds) as pool:
        answers = pool.run(tasks, on_progress)
    return {path: facts_from_json(answer) for path, answer in zip(paths, answers, strict=True)}


def thumb_path(thumbs: Path, source: str) -> Path:
    """Where an image's thumbnail is: by a hash, for a name need be no valid text."""
    return thumbs / f"{blake2b(os.fsencode(source), digest_size=12).hexdigest()}.jpg"


def _sort_out(
    facts: Mapping[str, ImageFacts | Unreadable],
) -> tuple[dict[str, ImageFacts], tuple[FileIssue, ...]]:
    good = {path: found for path, found in facts.items() if isinstance(found, ImageFacts)}
    bad = tuple(
        FileIssue(path=path, why=found.reason)
        for path, found in facts.items()
        if isinstance(found, Unreadable)
    )
    return good, bad


def _items(
    tree: Tree,
    view: View,
    good: Mapping[str, ImageFacts],
    captions: Mapping[str, Caption],
    masks: Mapping[str, Mask],
    request: DatasetRequest,
) -> tuple[ImageItem, ...]:
    def text(path: str, *, is_reg: bool) -> str:
        caption = captions[path].text
        add = request.add_trigger and tree.trigger and not is_reg
        return with_trigger(caption, tree.trigger or "") if add else caption

    return tuple(
        ImageItem(
            path=Path(image.path),
            source=image.path,
            source_path=tree.root / image.path,
            caption=text(image.path, is_reg=concept.is_reg),
            num_repeats=concept.num_repeats,
            concept=concept.class_tokens,
            is_reg=concept.is_reg,
            facts=good[image.path],
            mask=masks.get(image.path),
        )
        for concept in view.concepts
        for image in concept.images
        if image.path in good
    )


def _trigger(tree: Tree, view: View, captions: Mapping[str, Caption]) -> str:
    """What calls the concept: the user's word, else the folder's words where they stand for
    captions or in each of them."""
    if tree.trigger:
        return tree.trigger
    words = {concept.class_tokens for concept in view.concepts if not concept.is_reg}
    if len(words) != 1:
        return ""
    word = words.pop()
    return word if all(word in caption.text for caption in captions.values()) else ""


def _not_used(
    entries: Sequence[FileEntry], images: set[str], captions: frozenset[str]
) -> list[FileIssue]:
    """Files that are no part of the training, and are not merely a system's or a cache's."""
    others = {(each.folder, each.stem) for each in entries if each.kind in ("unsupported", "image")}
    return [
        FileIssue(path=entry.path, why=_why_not_used(entry, others))
        for entry in entries
        if entry.kind not in ("junk", "cache")
        and entry.path not in images
        and entry.path not in captions
    ]


def _why_not_used(entry: FileEntry, others: Collection[tuple[str, str]]) -> str:
    """Why a file is no part of the training; `others` are folder and stem of what could be images
    and is left out."""
    if entry.kind == "caption":
        if (entry.folder, entry.stem) in others:
            return _OF_A_FILE_LEFT_OUT
        return msg("a text file without an image of its name")
    if entry.kind == "image":
        return msg("in a folder that is not read")
    return entry.why or msg("not an image")


def _about_left_out(left_out: Sequence[FileIssue]) -> list[Finding]:
    """Said where it may be a loss: formats that are not read, captions whose image is gone."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for note in left_out:
        if note.why not in ("not an image", "in a folder that is not read", _OF_A_FILE_LEFT_OUT):
            by_reason[note.why].append(note.path)
    return [
        _closed(why, paths)
        if why.startswith(CANNOT_BE_READ)
        else Finding(
            kind="left_out",
            level="warning",
            text=msg(
                "{files} left out, each {why}: {names}",
                files=plural("{n} file", "{n} files", len(paths)),
                why=why,
                names=names(paths),
            ),
            fix=msg("convert or remove them, or add the missing image"),
            files=tuple(paths),
        )
        for why, paths in by_reason.items()
    ]


def _closed(why: str, paths: Sequence[str]) -> Finding:
    """Folders and files that are there and may not be read: without them it is another dataset."""
    return Finding(
        kind="closed",
        level="error",
        text=msg("{names} {why}", names=names(paths), why=why),
        fix=msg("let this user read it (chmod -R a+rX), or remove it from the dataset"),
        files=tuple(paths),
    )
