"""Archives unpacked so that nothing lands outside, nothing is a link, and nothing fills the disk.

zip, tar, tar.gz, tar.bz2, tar.xz and tar.zst, distinguished by content. An archive with one member
that would be written elsewhere is refused whole: it is malicious or broken.
"""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from tenner.core.errors import DatasetError
from tenner.core.messages import msg
from tenner.dataset.findings import printable

MAX_MEMBERS = 1_000_000
MAX_RATIO = 200
"""Unpacked bytes for each packed one, above 100 MB: pictures do not shrink, bombs do."""
RATIO_COUNTS_FROM = 100 * 1024**2
CHUNK = 1024**2
ARCHIVE_SUFFIXES = (
    *(".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"),
    *(".tzst", ".tbz2", ".txz", ".rar", ".7z"),
)
_NOT_UNPACKED = {b"Rar!\x1a\x07": "RAR", b"7z\xbc\xaf\x27\x1c": "7z"}
"""How archives begin that need a program of their own, by the formats' documents."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What unpacking may write, in bytes."""

    max_bytes: int
    packed_bytes: int

    def check(self, written: int, name: str) -> None:
        if written > self.max_bytes:
            raise DatasetError(
                msg(
                    "{name} unpacks to more than {max_bytes} GB",
                    name=name,
                    max_bytes=f"{self.max_bytes / 1024**3:g}",
                ),
                fix=msg("pack only the images and captions"),
            )
        if written > RATIO_COUNTS_FROM and written > MAX_RATIO * self.packed_bytes:
            raise DatasetError(
                msg(
                    "{name} unpacks to more than {max_ratio} times its size: this is no dataset",
                    name=name,
                    max_ratio=MAX_RATIO,
                ),
                fix=msg("pack the images and captions anew"),
            )


def is_archive(path: Path) -> bool:
    """Whether `unpack` may be tried: by name, or by the first bytes."""
    if path.name.lower().endswith(ARCHIVE_SUFFIXES):
        return True
    try:
        with path.open("rb") as opened:
            begins = opened.read(8)
        known = (b"PK\x03\x04", b"PK\x05\x06", *_NOT_UNPACKED)
        return begins.startswith(known) or tarfile.is_tarfile(path)
    except OSError:
        return False


def refuse_other_archives(archive: Path) -> None:
    """Raise DatasetError for archives that only programs outside the standard library unpack."""
    with archive.open("rb") as opened:
        begins = opened.read(8)
    kind = next((name for magic, name in _NOT_UNPACKED.items() if begins.startswith(magic)), None)
    if kind:
        raise DatasetError(
            msg(
                "{name} is a {kind} archive, which tenner does not unpack",
                name=archive.name,
                kind=kind,
            ),
            fix=msg("unpack it and name the folder, or pack the images as zip or tar.gz"),
        )


def unpack(archive: Path, folder: Path, *, max_bytes: int) -> None:
    """Unpack into the empty `folder`. Raises DatasetError; then the folder may hold a part."""
    limits = Limits(max_bytes=max_bytes, packed_bytes=archive.stat().st_size)
    refuse_other_archives(archive)
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder, limits)
        else:
            _unpack_tar(archive, folder, limits)
    except DatasetError:
        raise
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError, LZMAError, zlib.error):
        raise DatasetError(
            msg("{name} is damaged, cut, or no archive", name=archive.name),
            fix=msg("pack it again as zip or tar.gz, and upload it whole"),
        ) from None
    except NotImplementedError:
        raise DatasetError(
            msg("{name} is packed by a method that tenner does not unpack", name=archive.name),
            fix=msg("pack it again as an ordinary zip (deflate) or tar.gz"),
        ) from None
    except RuntimeError:  # what zipfile raises for an encrypted member without a password
        raise DatasetError(
            msg("{name} is encrypted", name=archive.name),
            fix=msg("pack it without a password, as zip"),
        ) from None
    except OSError as error:
        raise DatasetError(
            msg(
                "{name} cannot be unpacked: {strerror}",
                name=archive.name,
                strerror=error.strerror or msg("its content is damaged"),
            ),
            fix=msg("check it, and the free disk space"),
        ) from None


def _unpack_zip(archive: Path, folder: Path, limits: Limits) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        targets = [_target(folder, member.filename, archive) for member in members]
        files = Counter(
            str(at) for at, each in zip(targets, members, strict=True) if not each.is_dir()
        )
        for member in members:
            if stat.S_ISLNK(member.external_attr >> 16):
                _refuse(archive, member.filename, msg("a link"))
        _count(members, archive)
        _refuse_doubled(files, archive)
        written = 0
        for member, target in zip(members, targets, strict=True):
            if member.is_dir():
                continue
            with opened.open(member) as source:
                written += _write(source, target, written, limits, archive.name)


def _unpack_tar(archive: Path, folder: Path, limits: Limits) -> None:
    """A tar's names are known one after the other: doubled ones are refused once all are."""
    written = 0
    files = Counter[str]()
    with _tar_stream(archive) as opened:
        for number, member in enumerate(opened):
            if number >= MAX_MEMBERS:
                _count(range(MAX_MEMBERS + 1), archive)
            target = _target(folder, member.name, archive)
            if member.isdir():
                continue
            if not member.isreg():
                _refuse(archive, member.name, msg("a link or a device"))
            files[str(target)] += 1
            source = opened.extractfile(member)
            if source is not None:
                with source:
                    written += _write(source, target, written, limits, archive.name)
    _refuse_doubled(files, archive)


@contextmanager
def _tar_stream(archive: Path) -> Generator[tarfile.TarFile]:
    with archive.open("rb") as raw:
        if raw.read(4) != b"\x28\xb5\x2f\xfd":
            with tarfile.open(archive, "r:*") as opened:
                yield opened
            return
        raw.seek(0)
        with _zstd(raw) as plain, tarfile.open(fileobj=plain, mode="r|") as opened:
            yield opened


def _zstd(raw: IO[bytes]) -> IO[bytes]:
    try:
        import zstandard  # pyright: ignore
    except ImportError:
        raise DatasetError(
            msg("a .tar.zst archive needs the package zstandard"),
            fix=msg("pip install 'tenner[dataset]', or pack the dataset as zip or tar.gz"),
        ) from None
    return zstandard.ZstdDecompressor().stream_reader(raw)  # pyright: ignore


def _target(folder: Path, name: str, archive: Path) -> Path:
    """Where a member goes. Refuses what would leave the folder, on any system."""
    posix = PurePosixPath(name.replace("\\", "/"))
    if posix.is_absolute() or PureWindowsPath(name).drive or ".." in posix.parts or "\0" in name:
        _refuse(archive, name, msg("a path that leads out of the archive"))
    return folder.joinpath(*posix.parts)


def _refuse(archive: Path, name: str, what: str) -> None:
    raise DatasetError(
        msg(
            '{name} holds "{name2}", {what}; nothing of it is used',
            name=archive.name,
            name2=printable(name),
            what=what,
        ),
        fix=msg("pack the images and captions anew, with plain names"),
    )


def _count(members: "list[zipfile.ZipInfo] | range", archive: Path) -> None:
    if len(members) > MAX_MEMBERS:
        raise DatasetError(
            msg(
                "{name} holds more than {max_members} files",
                name=archive.name,
                max_members=f"{MAX_MEMBERS:,}",
            ),
            fix=msg("pack only the images"),
        )


def _refuse_doubled(files: Counter[str], archive: Path) -> None:
    """Two entries of one name: one would be lost, and which one is anybody's guess."""
    doubled = [name for name, count in files.items() if count > 1]
    if doubled:
        shown = ", ".join(printable(Path(each).name) for each in doubled[:3])
        raise DatasetError(
            msg(
                "{name} holds {n} names more than once: {shown}",
                name=archive.name,
                n=len(doubled),
                shown=shown,
            ),
            fix=msg("pack the images and captions anew, each once"),
        )


def _write(source: IO[bytes], target: Path, before: int, limits: Limits, name: str) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("wb") as out:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            limits.check(before + written, name)
            out.write(chunk)
    return written


def remove_tree(folder: Path) -> None:
    """Remove what an interrupted unpacking left."""
    shutil.rmtree(folder, ignore_errors=True)
