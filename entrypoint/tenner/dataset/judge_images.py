"""What the pixels say against training on them: broken, small, doubled, too few."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tenner.dataset.facts import ImageFacts
from tenner.dataset.findings import FileIssue, Finding, counted, names, printable
from tenner.dataset.likeness import near_duplicates
from tenner.kohya.buckets import Size

BROKEN_SHARE = 0.2
"""Above this share of unreadable images something went wrong as a whole (a cut upload)."""

BLURRED = 0.75
"""`ImageFacts.blur` above which a picture is called blurred. By bench/dataset_thresholds.py, of
60 generated pictures none is named up to a Gaussian blur of 2 pixels at 512 px, all from 3 on."""

LOW_QUALITY = 40
"""JPEG quality below which blocks are called heavy, at pictures that are not shrunk to train."""

DARK, BRIGHT = 40, 215
"""Nothing (but 1 % of the pixels) is brighter, or darker, than this of 255."""

SIZE_CLASSES = ((80, 150, "complex"), (40, 80, "medium"), (20, 40, "simple"))
"""The guide's numbers of images for a complex, medium and simple concept."""


def judge_unreadable(left_out: Sequence[FileIssue], *, num_images: int) -> list[Finding]:
    """Few broken images are left out and said; many are an error, and none is only a part."""
    if not left_out:
        return []
    said = "; ".join(f"{printable(note.path)} is {note.why}" for note in left_out[:5])
    more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    text = f"{len(left_out)} of {counted(num_images, 'image')} cannot be used: {said}{more}"
    many = len(left_out) > BROKEN_SHARE * num_images
    fix = "replace or remove them" + ("" if many else "; the run goes on without them")
    return [
        Finding(
            kind="unreadable",
            level="error" if many else "warning",
            text=text,
            fix=fix,
            files=tuple(note.path for note in left_out),
        )
    ]


def judge_images(
    facts: Mapping[str, ImageFacts], *, resolution: Size, is_reg: bool
) -> list[Finding]:
    """Findings about all readable images, by path."""
    found = [*_small(facts, resolution), *_doubled(facts), *_near_doubled(facts)]
    found += [*_blurred(facts), *_compressed(facts), *_exposed(facts), *_animated(facts)]
    return found if is_reg else [*found, *_set_size(len(facts))]


def _animated(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    moving = [path for path, each in facts.items() if "frames" in each.needs]
    if not moving:
        return []
    return [
        Finding(
            kind="animated",
            level="warning",
            text=f"{counted(len(moving), 'image')} with several frames, of which only the first is"
            f" trained: {names(moving)}",
            fix="save the frames that you want as pictures of their own",
            files=tuple(moving),
        )
    ]


def _small(facts: Mapping[str, ImageFacts], resolution: Size) -> list[Finding]:
    wanted = min(resolution)
    small = [path for path, each in facts.items() if min(each.width, each.height) < wanted]
    if not small:
        return []
    return [
        Finding(
            kind="small",
            level="warning",
            text=f"{len(small)} of {len(facts)} images are under {wanted} px: {names(small)}",
            fix=f"replace them, or train at a lower resolution than {wanted}",
            files=tuple(small),
        )
    ]


def _doubled(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    by_content: defaultdict[str, list[str]] = defaultdict(list)
    for path, each in facts.items():
        by_content[each.sha256].append(path)
    doubled = [paths for paths in by_content.values() if len(paths) > 1]
    if not doubled:
        return []
    files = [path for paths in doubled for path in paths]
    return [
        Finding(
            kind="duplicate",
            level="warning",
            text=f"{counted(len(files), 'file')} are the same picture as another: {names(files)}",
            fix="keep one of each; doubled pictures are learnt twice as strongly",
            files=tuple(files),
        )
    ]


def _near_doubled(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    groups = near_duplicates(facts)
    if not groups:
        return []
    files = [path for group in groups for path in group]
    text = f"{counted(len(groups), 'group')} of nearly the same picture: {names(files)}"
    fix = "keep the best of each; too alike pictures are learnt as one, and overfitted"
    return [_warning("near_duplicate", text, fix, files)]


def _blurred(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    files = [path for path, each in facts.items() if each.blur is not None and each.blur > BLURRED]
    if not files:
        return []
    text = f"{counted(len(files), 'image')} blurred even where sharpest: {names(files)}"
    return [_warning("blurred", text, "replace them: blur is learnt like anything else", files)]


def _compressed(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    files = [
        path
        for path, each in facts.items()
        if each.jpeg_quality is not None and each.jpeg_quality < LOW_QUALITY
    ]
    if not files:
        return []
    text = f"{counted(len(files), 'image')} of heavy JPEG compression: {names(files)}"
    fix = "take the originals: the blocks around edges are learnt"
    return [_warning("compressed", text, fix, files)]


def _exposed(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    dark = [path for path, each in facts.items() if each.brightest < DARK]
    bright = [path for path, each in facts.items() if each.darkest > BRIGHT]
    found: list[Finding] = []
    if dark:
        text = f"{counted(len(dark), 'image')} nearly black all over: {names(dark)}"
        found.append(_warning("dark", text, "brighten or replace them", dark))
    if bright:
        text = f"{counted(len(bright), 'image')} nearly white all over: {names(bright)}"
        found.append(_warning("bright", text, "darken or replace them", bright))
    return found


def _warning(kind: str, text: str, fix: str, files: Sequence[str]) -> Finding:
    return Finding(kind=kind, level="warning", text=text, fix=fix, files=tuple(files))


def _set_size(num_images: int) -> list[Finding]:
    if num_images < 15:
        level, text = "warning", f"{counted(num_images, 'image')} is few"
        fix = "15 to 20 can do; 30 to 100 well described ones are far better"
    elif num_images > 150:
        level, text = (
            "note",
            f"{counted(num_images, 'image')} is many: more steps, time and dollars",
        )
        fix = "20 to 80 chosen ones often do better"
    else:
        fits = next((name for low, _, name in SIZE_CLASSES if num_images >= low), "simple")
        level, text = "note", f"{counted(num_images, 'image')}: enough for a {fits} concept"
        fix = ""
    assert level in ("warning", "note")
    return [Finding(kind="set_size", level=level, text=text, fix=fix)]
