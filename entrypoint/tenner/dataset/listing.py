"""Which files a folder holds, and what each one is by its name and its first bytes.

Nothing is left unseen: every file gets a kind. Links that lead out of the folder, loops and
deep trees are bounded. Paths are relative to the root, with forward slashes.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tenner.core.messages import msg

FileKind = Literal["image", "caption", "metadata", "cache", "junk", "unsupported", "other"]

MAX_DEPTH = 16
MAX_FILES = 2_000_000
CANNOT_BE_READ = msg("cannot be read")
"""How `why` begins of what is there and closed to this user."""

IMAGE_SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib",
    ".gif", ".tif", ".tiff", ".avif", ".avifs", ".heic", ".heif", ".hif", ".ppm",
    ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k", ".mpo",
})  # fmt: skip
CAPTION_SUFFIXES = frozenset({".txt", ".caption"})
UNSUPPORTED_SUFFIXES = {
    **dict.fromkeys((".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v", ".wmv", ".mpg"), "a video"),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra", ".clip", ".ai", ".svg", ".eps", ".pdf"),
                    msg("an artwork file, not a picture")),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".raw"),
                    msg("a camera's raw file")),
    **dict.fromkeys((".jxl", ".exr", ".hdr", ".ico", ".icns"), msg("a format that is not read")),
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".zst", ".7z", ".rar", ".xz", ".bz2"),
                    msg("an archive inside the dataset")),
    **dict.fromkeys((".parquet", ".arrow"), msg("a table, not pictures")),
}  # fmt: skip
JUNK_NAMES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "__pycache__", "$recycle.bin",
                          "system volume information", "lost+found"})  # fmt: skip


RUN_NAMES = frozenset({"events.jsonl", "checkpoints", "state", "samples"})
"""What every directory of a run holds, and no folder of pictures."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of the dataset. `path` is relative to the root, `size` in bytes."""

    path: str
    size: int
    kind: FileKind
    why: str = ""

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return split_name(self.name)[0]

    @property
    def suffix(self) -> str:
        return split_name(self.name)[1]


def split_name(name: str) -> tuple[str, str]:
    """("a.b", ".png") of "a.b.PNG": the stem as written, the suffix in lower case."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, "." + suffix.lower()) if dot and stem else (name, "")


def classify(path: str, size: int, head: bytes = b"") -> FileEntry:
    """What a file is; `head`, its first bytes, matters only where the name is not enough."""
    *folders, name = path.split("/")
    lower = name.lower()
    suffix = split_name(name)[1]
    kind: FileKind = "other"
    why = msg("not an image")
    if lower.startswith(".") or lower in JUNK_NAMES or any(map(_is_junk_folder, folders)):
        kind, why = "junk", "a system file"
    elif suffix in IMAGE_SUFFIXES:
        kind, why = "image", ""
    elif suffix in CAPTION_SUFFIXES:
        kind, why = "caption", ""
    elif lower in ("metadata.jsonl", "metadata.csv"):
        kind, why = "metadata", ""
    elif suffix in (".npz", ".safetensors") or lower == "metadata_cache.json":
        kind, why = "cache", msg("a cache of an earlier training")
    elif suffix in UNSUPPORTED_SUFFIXES:
        kind, why = "unsupported", UNSUPPORTED_SUFFIXES[suffix]
    elif looks_like_image(head):
        kind, why = "image", msg("has no image extension")
    return FileEntry(path=path, size=size, kind=kind, why=why)


def _is_junk_folder(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK_FOLDERS


def looks_like_image(head: bytes) -> bool:
    """Whether the first 16 bytes are those of an image format that is read here."""
    return (
        head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\x00", b"MM\x00*"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1"))
    )


def list_files(root: Path, *, skip: Collection[Path] = ()) -> tuple[FileEntry, ...]:
    """Every file below `root`, sorted by path. Links to files and folders are what they lead to;
    links that lead around themselves and folders deeper than 16 are listed as one thing that is
    not read; folders of tenner's runs, and those in `skip`, as one thing that is no part of the
    dataset. Raises OSError where the root cannot be read."""
    skipped = {path.resolve() for path in skip}
    found: list[FileEntry] = []
    waiting: list[tuple[str, Path, tuple[Path, ...]]] = [("", root, (root.resolve(),))]
    while waiting:
        prefix, folder, chain = waiting.pop()
        depth = prefix.count("/")
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            if not prefix:
                raise
            why = msg(
                "{cannot_be_read} ({strerror})",
                cannot_be_read=CANNOT_BE_READ,
                strerror=error.strerror,
            )
            found.append(FileEntry(path=prefix, size=0, kind="unsupported", why=why))
            continue
        if prefix and (_is_run(entries) or (skipped and folder.resolve() in skipped)):
            path = prefix.rstrip("/")
            found.append(FileEntry(path=path, size=0, kind="junk", why=msg("a run of tenner")))
            continue
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if not _is_folder(entry):
                found.append(_entry(entry, path))
            elif entry.is_symlink() and _leads_around(entry, folder, chain):
                why = msg("a link to a folder that contains it")
                found.append(FileEntry(path=path, size=0, kind="unsupported", why=why))
            elif _is_junk_folder(entry.name):
                found.append(FileEntry(path=path, size=0, kind="junk", why=msg("a system folder")))
            elif depth >= MAX_DEPTH:
                why = msg("more than {max_depth} folders deep", max_depth=MAX_DEPTH)
                found.append(FileEntry(path=path, size=0, kind="unsupported", why=why))
            else:
                inner = Path(entry.path)
                links = chain
                if entry.is_symlink():
                    links = (*chain, folder.resolve(), inner.resolve())
                waiting.append((path + "/", inner, links))
        if len(found) > MAX_FILES:
            raise OSError(
                msg(
                    "more than {max_files} files; this is no dataset folder",
                    max_files=f"{MAX_FILES:,}",
                )
            )
    return tuple(sorted(found, key=lambda entry: entry.path))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _leads_around(entry: "os.DirEntry[str]", folder: Path, chain: Sequence[Path]) -> bool:
    """Whether a link leads to a folder that holds this one, or one that was come from."""
    target = Path(entry.path).resolve()
    return any(each.is_relative_to(target) for each in (*chain, folder.resolve()))


def _is_run(entries: "Sequence[os.DirEntry[str]]") -> bool:
    """Whether a folder is the directory of a run: its samples and its copies are no input."""
    return {entry.name for entry in entries} >= RUN_NAMES


def _entry(entry: "os.DirEntry[str]", path: str) -> FileEntry:
    try:
        if not entry.is_file():
            return FileEntry(path=path, size=0, kind="unsupported", why=msg("not a readable file"))
        found = classify(path, entry.stat().st_size)
        if found.kind != "other":
            return found
        with Path(entry.path).open("rb") as opened:
            return classify(path, found.size, opened.read(16))
    except OSError as error:
        why = msg(
            "{cannot_be_read} ({strerror})", cannot_be_read=CANNOT_BE_READ, strerror=error.strerror
        )
        return FileEntry(path=path, size=0, kind="unsupported", why=why)
