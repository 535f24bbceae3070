"""The head of a safetensors file, and what a file is that has none.

Only the beginning is read: a wrong, cut or foreign file is told in milliseconds, whatever its size.
"""

import json
import struct
from pathlib import Path
from typing import Any, cast

from tenner.errors import SettingsError

_LONGEST_HEADER_BYTES = 100_000_000
"""What safetensors itself reads."""


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """Tensor names with `dtype`, `shape` and `data_offsets`, and `__metadata__`.

    Raises SettingsError where the file is something else, or cut.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        raw = file.read(length) if 2 <= length <= min(size, _LONGEST_HEADER_BYTES) else b""
        file.seek(0)
        beginning = file.read(512)
    if not raw.startswith(b"{"):
        raise _not_safetensors(path, beginning)
    try:
        header = cast("dict[str, Any]", json.loads(raw))
    except ValueError:
        raise _cut(path, size, None) from None
    ends = [each["data_offsets"][1] for key, each in header.items() if key != "__metadata__"]
    wanted = 8 + length + max(ends, default=0)
    if size < wanted:
        raise _cut(path, size, wanted)
    return header


def _cut(path: Path, size: int, wanted: int | None) -> SettingsError:
    of = f" of {wanted / 1e6:,.1f}" if wanted else ""
    text = f"{path} is cut: {size / 1e6:,.1f}{of} MB are there"
    return SettingsError(text, fix="download it again")


def refuse_beginning(beginning: bytes) -> None:
    """Raise SettingsError where a file that begins so is no safetensors file."""
    length = struct.unpack("<Q", beginning[:8])[0] if len(beginning) >= 8 else 0
    if len(beginning) >= 9 and not (
        2 <= length <= _LONGEST_HEADER_BYTES and beginning[8:9] == b"{"
    ):
        what, fix = _what_it_is(beginning)
        raise SettingsError(f"what is there is {what}", fix=fix)


def _not_safetensors(path: Path, beginning: bytes) -> SettingsError:
    what, fix = _what_it_is(beginning)
    return SettingsError(f"{path} is {what}", fix=fix)


def _what_it_is(beginning: bytes) -> tuple[str, str]:
    """What a file that should be safetensors is instead, and what to do."""
    head = beginning.lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page", "download the file itself: its link has /resolve/ in it, not /blob/"
    if head.startswith(b"version https://git-lfs"):
        return (
            "a git-lfs pointer, not the weights",
            "run `git lfs pull`, or download the file",
        )
    if beginning[:2] == b"PK" or beginning[:1] == b"\x80":
        fix = "take the .safetensors file of this model, or convert it"
        return "a pickle (.ckpt, .bin), which can run code", fix
    if not beginning:
        return "empty", "download it again"
    return "no safetensors file", "take the .safetensors file of the model"
