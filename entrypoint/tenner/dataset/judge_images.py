"""What is wrong with the pixels for a training: broken, small, doubled, too few."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tenner.core.messages import NO_TEXT, Message, joined, msg, plural
from tenner.dataset.facts import ImageFacts
from tenner.dataset.findings import FileIssue, Finding, names, printable
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

SIZE_CLASSES = ((80, 150, msg("complex")), (40, 80, msg("medium")), (20, 40, msg("simple")))
"""The guide's numbers of images for a complex, medium and simple concept."""


def judge_unreadable(left_out: Sequence[FileIssue], *, num_images: int) -> list[Finding]:
    """Findings about broken images: a warning that few are left out, an error for many."""
    if not left_out:
        return []
    listed = joined(
        *(msg("{name} is {why}", name=printable(note.path), why=note.why) for note in left_out[:5])
    )
    more = msg(" and {n} more", n=len(left_out) - 5) if len(left_out) > 5 else ""
    text = msg(
        "{n} of {images} cannot be used: {files}{more}",
        n=len(left_out),
        images=plural("{n} image", "{n} images", num_images),
        files=listed,
        more=more,
    )
    many = len(left_out) > BROKEN_SHARE * num_images
    fix = msg(
        "replace or remove them{what}", what="" if many else msg("; the run continues without them")
    )
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
    facts: Mapping[str, ImageFacts], *, resolution: Size, is_reg: bool, decoded: bool = True
) -> list[Finding]:
    """Findings about all readable images, by path; without `decoded` only those that file heads
    show."""
    found = [*_small(facts, resolution), *_doubled(facts)]
    if decoded:
        found += [*_near_doubled(facts), *_blurred(facts), *_compressed(facts), *_exposed(facts)]
    found += _animated(facts)
    return found if is_reg else [*found, *_set_size(len(facts))]


def _animated(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    moving = [path for path, each in facts.items() if "frames" in each.needs]
    if not moving:
        return []
    return [
        Finding(
            kind="animated",
            level="warning",
            text=msg(
                "{images} with several frames, of which only the first is trained: {names}",
                images=plural("{n} image", "{n} images", len(moving)),
                names=names(moving),
            ),
            fix=msg("save the frames that you need as pictures of their own"),
            files=tuple(moving),
        )
    ]


def _small(facts: Mapping[str, ImageFacts], resolution: Size) -> list[Finding]:
    least = min(resolution)
    small = [path for path, each in facts.items() if min(each.width, each.height) < least]
    if not small:
        return []
    return [
        Finding(
            kind="small",
            level="warning",
            text=msg(
                "{n} of {n2} images are under {least} px: {names}",
                n=len(small),
                n2=len(facts),
                least=least,
                names=names(small),
            ),
            fix=msg("replace them, or train at a lower resolution than {least}", least=least),
            files=tuple(small),
        )
    ]


def _doubled(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    by_content: defaultdict[str, list[str]] = defaultdict(list)
    for path, each in facts.items():
        if each.sha256:
            by_content[each.sha256].append(path)
    doubled = [paths for paths in by_content.values() if len(paths) > 1]
    if not doubled:
        return []
    files = [path for paths in doubled for path in paths]
    return [
        Finding(
            kind="duplicate",
            level="warning",
            text=msg(
                "{files} are the same picture as another: {names}",
                files=plural("{n} file", "{n} files", len(files)),
                names=names(files),
            ),
            fix=msg("keep one of each; doubled pictures are learnt twice as strongly"),
            files=tuple(files),
        )
    ]


def _near_doubled(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    groups = near_duplicates(facts)
    if not groups:
        return []
    files = [path for group in groups for path in group]
    text = msg(
        "{groups} of nearly the same picture: {names}",
        groups=plural("{n} group", "{n} groups", len(groups)),
        names=names(files),
    )
    fix = msg("keep the best of each; too alike pictures are learnt as one, and overfitted")
    return [_warning("near_duplicate", text, fix, files)]


def _blurred(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    files = [path for path, each in facts.items() if each.blur is not None and each.blur > BLURRED]
    if not files:
        return []
    text = msg(
        "{images} blurred even where sharpest: {names}",
        images=plural("{n} image", "{n} images", len(files)),
        names=names(files),
    )
    return [
        _warning("blurred", text, msg("replace them: blur is learnt like anything else"), files)
    ]


def _compressed(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    files = [
        path
        for path, each in facts.items()
        if each.jpeg_quality is not None and each.jpeg_quality < LOW_QUALITY
    ]
    if not files:
        return []
    text = msg(
        "{images} of heavy JPEG compression: {names}",
        images=plural("{n} image", "{n} images", len(files)),
        names=names(files),
    )
    fix = msg("take the originals: the blocks around edges are learnt")
    return [_warning("compressed", text, fix, files)]


def _exposed(facts: Mapping[str, ImageFacts]) -> list[Finding]:
    dark = [path for path, each in facts.items() if each.brightest < DARK]
    bright = [path for path, each in facts.items() if each.darkest > BRIGHT]
    found: list[Finding] = []
    if dark:
        text = msg(
            "{images} nearly black all over: {names}",
            images=plural("{n} image", "{n} images", len(dark)),
            names=names(dark),
        )
        found.append(_warning("dark", text, msg("brighten or replace them"), dark))
    if bright:
        text = msg(
            "{images} nearly white all over: {names}",
            images=plural("{n} image", "{n} images", len(bright)),
            names=names(bright),
        )
        found.append(_warning("bright", text, msg("darken or replace them"), bright))
    return found


def _warning(kind: str, text: Message, fix: Message, files: Sequence[str]) -> Finding:
    return Finding(kind=kind, level="warning", text=text, fix=fix, files=tuple(files))


def _set_size(num_images: int) -> list[Finding]:
    if num_images < 15:
        level, text = (
            "warning",
            msg("{images} is few", images=plural("{n} image", "{n} images", num_images)),
        )
        fix = msg("15 to 20 can do; 30 to 100 well described ones are far better")
    elif num_images > 150:
        level, text = (
            "note",
            msg(
                "{images} is many: more steps, time and dollars",
                images=plural("{n} image", "{n} images", num_images),
            ),
        )
        fix = msg("20 to 80 chosen ones often do better")
    else:
        fits = next((name for low, _, name in SIZE_CLASSES if num_images >= low), "simple")
        level, text = (
            "note",
            msg(
                "{images}: enough for a {fits} concept",
                images=plural("{n} image", "{n} images", num_images),
                fits=fits,
            ),
        )
        fix = NO_TEXT
    assert level in ("warning", "note")
    return [Finding(kind="set_size", level=level, text=text, fix=fix)]
