"""What the pixels say against training on them: broken, small, doubled, too few."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tenner.dataset.buckets import Size
from tenner.dataset.facts import ImageFacts
from tenner.dataset.findings import FileNote, Finding, counted, names, printable

BROKEN_SHARE = 0.2
"""Above this share of unreadable images something went wrong as a whole (a cut upload)."""

SIZE_CLASSES = ((80, 150, "complex"), (40, 80, "medium"), (20, 40, "simple"))
"""The guide's numbers of images for a complex, medium and simple concept."""


def judge_unreadable(left_out: Sequence[FileNote], *, num_images: int) -> list[Finding]:
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
    found = [*_small(facts, resolution), *_doubled(facts)]
    return found if is_reg else [*found, *_set_size(len(facts))]


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
