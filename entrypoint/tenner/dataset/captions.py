"""Which caption file belongs to which image, and its text. Reads through a function it is given.

`photo.txt`, `photo.caption`, `PHOTO.TXT` and `photo.png.txt` are all found; where there are
two kinds the one that covers more images is taken and reported.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tenner.core.messages import NO_TEXT, Message, joined, msg, plural
from tenner.dataset.findings import Finding, names, printable
from tenner.dataset.listing import FileEntry
from tenner.dataset.text import CaptionText, CaptionUnreadable, clean_line, read_caption
from tenner.dataset.view import Concept

ReadBytes = Callable[[str], bytes]
Candidates = Mapping[str, Mapping[str, FileEntry]]


@dataclass(frozen=True, kw_only=True)
class Caption:
    """An image's caption. `file` is None where the concept's words are used instead.

    `lines` are all lines of the file; `text` is the first, or all where a trainer draws one.
    """

    text: str
    file: str | None = None
    lines: tuple[str, ...] = ()
    is_draft: bool = False


@dataclass(frozen=True, kw_only=True)
class CaptionFiles:
    """The caption file of each image path; `used` are all files that belong to some image."""

    by_image: Mapping[str, FileEntry]
    used: frozenset[str]
    extension: str
    findings: tuple[Finding, ...]


def find_caption_files(
    images: Sequence[FileEntry], entries: Iterable[FileEntry], requested: str | None
) -> CaptionFiles:
    """Match caption files to images. `requested`: the extension the user set, or None to find
    it."""
    extension = (
        "." + requested.strip().lstrip(".").lower() if requested and requested.strip(" .") else None
    )
    by_key: defaultdict[tuple[str, str], dict[str, FileEntry]] = defaultdict(dict)
    for entry in entries:
        if entry.kind == "caption" or (entry.suffix == extension and entry.kind == "other"):
            by_key[entry.folder, entry.stem.casefold()].setdefault(entry.suffix, entry)
    own = {image.path: _candidates(image, by_key) for image in images}
    chosen = extension or _most_used(own)
    found = {path: files[chosen] for path, files in own.items() if chosen in files}
    if extension is None:
        rest = {path: files for path, files in own.items() if files and path not in found}
        found |= {path: files[min(files)] for path, files in rest.items()}
    return CaptionFiles(
        by_image=found,
        used=frozenset(entry.path for files in own.values() for entry in files.values()),
        extension=chosen,
        findings=(*_about_extensions(own, found, chosen, extension), *_about_sharing(found)),
    )


def _candidates(
    image: FileEntry, by_key: Mapping[tuple[str, str], Mapping[str, FileEntry]]
) -> dict[str, FileEntry]:
    by_full_name = by_key.get((image.folder, image.name.casefold()), {})
    by_stem = by_key.get((image.folder, image.stem.casefold()), {})
    return {**by_full_name, **by_stem}


def _most_used(own: Candidates) -> str:
    counts = Counter(suffix for files in own.values() for suffix in files)
    return max(counts, key=lambda suffix: (counts[suffix], suffix == ".txt"), default=".txt")


def _about_extensions(
    own: Candidates, found: Mapping[str, FileEntry], chosen: str, requested: str | None
) -> list[Finding]:
    """Images whose captions have another extension than the others', or both."""
    both = [path for path, files in own.items() if chosen in files and len(files) > 1]
    other = [path for path, files in own.items() if files and chosen not in files]
    findings: list[Finding] = []
    if both:
        text = msg(
            "{images} with two caption files; {chosen} is read",
            images=plural("{n} image", "{n} images", len(both)),
            chosen=chosen,
        )
        fix = msg("remove the other ones, or set caption_extension")
        findings.append(_finding("two_captions", "warning", text, fix, both))
    if other and requested:
        have = sorted({suffix for path in other for suffix in own[path]})
        text = msg(
            "{images} without a {chosen} caption, but with {have}",
            images=plural("{n} image", "{n} images", len(other)),
            chosen=chosen,
            have=have[0],
        )
        fix = msg(
            'set caption_extension = "{have}", or leave it out to have both read', have=have[0]
        )
        findings.append(_finding("other_extension", "warning", text, fix, other))
    elif other:
        suffixes = sorted({found[path].suffix for path in other})
        text = msg(
            "captions are {chosen}; {images} with {suffixes} read too",
            chosen=chosen,
            images=plural("{n} image", "{n} images", len(other)),
            suffixes=suffixes[0],
        )
        findings.append(_finding("other_extension", "note", text, NO_TEXT, other))
    return findings


def _about_sharing(found: Mapping[str, FileEntry]) -> list[Finding]:
    """`a.png` and `a.jpg` that share `a.txt`."""
    images_of: defaultdict[str, list[str]] = defaultdict(list)
    for path, entry in found.items():
        images_of[entry.path].append(path)
    shared = [path for paths in images_of.values() if len(paths) > 1 for path in paths]
    if not shared:
        return []
    text = msg(
        "{images} of the same name share a caption: {names}",
        images=plural("{n} image", "{n} images", len(shared)),
        names=names(shared),
    )
    fix = msg("if they are the same picture, remove one")
    return [_finding("shared_caption", "warning", text, fix, shared)]


def _finding(kind: str, level: str, text: Message, fix: Message, files: Sequence[str]) -> Finding:
    assert level in ("warning", "note")
    return Finding(kind=kind, level=level, text=text, fix=fix, files=tuple(files))


def read_captions(
    concepts: Sequence[Concept],
    files: CaptionFiles,
    read: ReadBytes,
    *,
    trigger: str | None,
    table: Mapping[str, str] | None = None,
) -> tuple[dict[str, Caption], list[Finding]]:
    """The caption of each image path, and what was found while reading.

    `table` holds captions by image path from a metadata file; a caption file is stronger. Where
    neither has a text the trigger is used, else the concept's folder name.
    """
    captions: dict[str, Caption] = {}
    bad: list[tuple[str, str]] = []
    guessed: list[tuple[str, CaptionText]] = []
    texts: dict[str, CaptionText | None] = {}
    for concept in concepts:
        for image in concept.images:
            entry = files.by_image.get(image.path)
            if entry and entry.path not in texts:
                texts[entry.path] = _read_one(entry.path, read, bad, guessed)
            text = texts[entry.path] if entry else None
            stand_in = concept.class_tokens if concept.is_reg or not trigger else trigger
            captions[image.path] = _caption(image.path, entry, text, table or {}, stand_in)
    return captions, [*_about_unreadable(bad), *_about_guesses(guessed)]


def framed(caption: Caption, *, prefix: str, suffix: str, all_lines: bool) -> Caption:
    """The caption as it is trained: with prefix and suffix, as sd-scripts adds
    them, and with `all_lines` every line of its file, of which the trainer draws one."""
    lines = caption.lines if all_lines and caption.lines else (caption.text,)
    parts = ([prefix.strip(), line, suffix.strip()] for line in lines)
    text = "\n".join(" ".join(filter(None, each)) for each in parts)
    return replace(caption, text=text)


def one_wording(caption: str) -> str:
    """One text that a caption with wildcards can become: its first line, of `{a|b}` the first."""
    line = caption.split("\n", 1)[0]
    if "{" not in line:
        return line
    return re.sub(r"\{([^{}|]+)(?:\|[^{}]*)?\}", r"\1", line)


def _caption(
    image: str,
    entry: FileEntry | None,
    text: CaptionText | None,
    table: Mapping[str, str],
    stand_in: str,
) -> Caption:
    if entry and text and text.first_line:
        return Caption(text=text.first_line, file=entry.path, lines=text.lines)
    if clean_line(table.get(image, "")):
        return Caption(text=clean_line(table[image]), file="metadata")
    return Caption(text=clean_line(stand_in))


def _read_one(
    path: str,
    read: ReadBytes,
    bad: list[tuple[str, str]],
    guessed: list[tuple[str, CaptionText]],
) -> CaptionText | None:
    try:
        text = read_caption(read(path))
    except CaptionUnreadable as error:
        bad.append((path, f"byte {error.offset}: {error}"))
        return None
    except OSError as error:
        bad.append((path, error.strerror or "cannot be read"))
        return None
    if text.guessed:
        guessed.append((path, text))
    return text


def _about_unreadable(bad: Sequence[tuple[str, str]]) -> list[Finding]:
    if not bad:
        return []
    listed = joined(
        *(msg("{name} ({why})", name=printable(path), why=why) for path, why in bad[:5])
    )
    return [
        Finding(
            kind="caption_unreadable",
            level="error",
            text=msg(
                "{files} cannot be read as text: {names}",
                files=plural("{n} caption file", "{n} caption files", len(bad)),
                names=listed,
            ),
            fix=msg("save them again as plain text in UTF-8"),
            files=tuple(path for path, _ in bad),
        )
    ]


def _about_guesses(guessed: Sequence[tuple[str, CaptionText]]) -> list[Finding]:
    if not guessed:
        return []
    path, text = guessed[0]
    guess = msg(
        '{name} as {encoding}: "{first_line}"',
        name=printable(path),
        encoding=text.encoding,
        first_line=text.first_line[:60],
    )
    return [
        Finding(
            kind="caption_encoding",
            level="warning",
            text=msg(
                "{files} not in UTF-8, read by guess: {guess}",
                files=plural("{n} caption file", "{n} caption files", len(guessed)),
                guess=guess,
            ),
            fix=msg("look whether the text is right, and save the files as UTF-8"),
            files=tuple(path for path, _ in guessed),
        )
    ]
