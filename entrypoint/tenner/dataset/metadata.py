"""Captions in one table beside the images, as datasets of the Hugging Face Hub have them.

`metadata.jsonl` or `metadata.csv` names each image in `file_name`, relative to its own folder, and
has its caption in a further column.
"""

import csv
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from posixpath import normpath
from typing import Any, cast

from tenner.core.messages import Message, msg, plural
from tenner.dataset.findings import Finding, names, printable
from tenner.dataset.listing import FileEntry

COLUMNS = ("text", "caption", "prompt", "description")
"""Columns that hold a caption, the usual one first: `text` is what diffusers' own scripts read."""
MAX_BYTES = 256 * 1024**2
FORMAT = '{"file_name": "photo1.jpg", "text": "a photo of …"}'


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Captions by image path; `used` are the tables that gave any."""

    captions: Mapping[str, str]
    used: frozenset[str]
    findings: tuple[Finding, ...]


def read_metadata(entries: Iterable[FileEntry], images: Collection[str], root: Path) -> Metadata:
    """The captions that the tables in the tree give to `images`."""
    captions: dict[str, str] = {}
    used: set[str] = set()
    findings: list[Finding] = []
    for entry in (each for each in entries if each.kind == "metadata"):
        try:
            rows = _rows(entry, root)
        except (OSError, ValueError, csv.Error) as error:
            text = msg("{name} cannot be read: {error}", name=printable(entry.path), error=error)
            fix = msg("each line is one object: {format}", format=FORMAT)
            findings.append(_finding("metadata", "error", text, fix, [entry.path]))
            continue
        found, strangers = _captions(rows, entry.folder, images)
        captions |= {path: text for path, text in found.items() if path not in captions}
        findings += _about_strangers(entry, strangers)
        if found:
            used.add(entry.path)
        else:
            text = msg(
                "{name} holds no caption of an image that is here", name=printable(entry.path)
            )
            fix = msg("name images in file_name and captions in text: {format}", format=FORMAT)
            findings.append(_finding("metadata", "warning", text, fix, [entry.path]))
    return Metadata(captions=captions, used=frozenset(used), findings=tuple(findings))


def _rows(entry: FileEntry, root: Path) -> list[Mapping[str, Any]]:
    """The table's rows. Raises OSError, ValueError or csv.Error."""
    if entry.size > MAX_BYTES:
        raise ValueError(msg("larger than {max_bytes} MB", max_bytes=MAX_BYTES // 1024**2))
    text = (root / entry.path).read_bytes().decode("utf-8-sig")
    if entry.suffix == ".csv":
        return list(csv.DictReader(StringIO(text)))
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                msg("line {number} is not JSON ({error})", number=number, error=error)
            ) from None
        if not isinstance(row, dict):
            raise ValueError(msg("line {number} is no object", number=number))  # noqa: TRY004 one kind for all
        rows.append(cast("dict[str, Any]", row))
    return rows


def _captions(
    rows: Sequence[Mapping[str, Any]], folder: str, images: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Captions by image path, and names that no image here has."""
    found: dict[str, str] = {}
    strangers: list[str] = []
    for row in rows:
        name = row.get("file_name")
        caption = next((row[key] for key in COLUMNS if isinstance(row.get(key), str)), None)
        if not isinstance(name, str) or not isinstance(caption, str):
            continue
        path = normpath(f"{folder}/{name}" if folder else name)
        if path in images:
            found[path] = caption
        else:
            strangers.append(name)
    return found, strangers


def _about_strangers(entry: FileEntry, strangers: Sequence[str]) -> list[Finding]:
    if not strangers:
        return []
    text = msg(
        "{name} names {images} not here: {names}",
        name=printable(entry.path),
        images=plural("{n} image", "{n} images", len(strangers)),
        names=names(strangers),
    )
    fix = msg("add the missing images, or remove their lines")
    return [_finding("metadata_images", "warning", text, fix, [entry.path])]


def _finding(kind: str, level: str, text: Message, fix: Message, files: Sequence[str]) -> Finding:
    assert level in ("error", "warning")
    return Finding(kind=kind, level=level, text=text, fix=fix, files=tuple(files))
