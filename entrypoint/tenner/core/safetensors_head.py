"""The header of a safetensors file, and what a file without one is.

Only the beginning is read: a wrong, cut or foreign file is reported in milliseconds, whatever its
size. Every program part that opens a safetensors file reads its head here, so that a maliciously
made file leads to an error message, nothing worse.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, TypeGuard, cast

from tenner.core.errors import SettingsError
from tenner.core.json_text import parse_object, read_object
from tenner.core.messages import Message, msg

_LONGEST_HEADER_BYTES = 100_000_000
"""The largest header that safetensors itself reads, in bytes."""
_DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
METADATA = "__metadata__"


class TensorEntry(TypedDict):
    """One tensor of a head: its offsets are in bytes from the head's end."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """Tensor names with `dtype`, `shape` and `data_offsets`, and `__metadata__`.

    Each entry is a `TensorEntry` whose bytes are in the file. Raises SettingsError where the file
    cannot be read, is something else, or is cut.
    """
    try:
        size, raw, beginning = _read_beginning(path)
    except OSError as error:
        raise SettingsError(
            msg("{path} cannot be read: {strerror}", path=path, strerror=error.strerror or error),
            fix=msg("let this user read it (chmod a+r), or name another file"),
        ) from None
    if not raw.startswith(b"{"):
        raise _not_safetensors(path, beginning)
    try:
        header = parse_object(raw)
    except ValueError:
        raise _cut(path, size, None) from None
    wrong = _wrong_entry(header)
    if wrong:
        raise SettingsError(
            msg(
                "{path} is damaged or was made wrongly: its head has {wrong}",
                path=path,
                wrong=wrong,
            ),
            fix=msg("download it again from where it is published"),
        )
    ends = [each["data_offsets"][1] for each in tensor_entries(header).values()]
    expected = 8 + len(raw) + max(ends, default=0)
    if size < expected:
        raise _cut(path, size, expected)
    return header


def tensor_entries(header: Mapping[str, Any]) -> dict[str, TensorEntry]:
    """The tensors of a head that was read, without its metadata."""
    return {name: each for name, each in header.items() if name != METADATA}


def data_start(path: Path) -> int:
    """Where the tensors' bytes begin, in a file whose head was read. Raises OSError."""
    with path.open("rb") as file:
        return 8 + _head_length(file.read(8))


def _read_beginning(path: Path) -> tuple[int, bytes, bytes]:
    """The file's size in bytes, its head unparsed, and its first 512 bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = _head_length(file.read(8))
        raw = file.read(length) if 2 <= length <= min(size, _LONGEST_HEADER_BYTES) else b""
        file.seek(0)
        return size, raw, file.read(512)


def _head_length(start: bytes) -> int:
    return struct.unpack("<Q", start)[0] if len(start) == 8 else 0


def _wrong_entry(header: Mapping[str, Any]) -> str:
    """What is wrong with the first entry that is; empty where all are right."""
    for name, entry in header.items():
        shown = repr(name if len(name) <= 60 else f"{name[:59]}…")
        if name == METADATA:
            if not _is_texts(entry):
                return msg("metadata that is not text")
        elif not _is_entry(entry):
            return msg("no dtype, shape and data_offsets for {shown}", shown=shown)
        elif _num_bytes(entry) not in (None, entry["data_offsets"][1] - entry["data_offsets"][0]):
            return msg("a shape for {shown} that does not fit its bytes", shown=shown)
    return ""


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, str) for each in cast("dict[str, object]", value).values()
    )


def _is_entry(entry: object) -> TypeGuard[TensorEntry]:
    if not isinstance(entry, dict):
        return False
    found = cast("dict[str, object]", entry)
    offsets, shape = found.get("data_offsets"), found.get("shape")
    if not (isinstance(found.get("dtype"), str) and _is_sizes(shape) and _is_sizes(offsets)):
        return False
    return len(offsets) == 2 and offsets[0] <= offsets[1]


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    """Whole numbers of up to 63 bits, none negative."""
    return isinstance(value, list) and all(
        type(each) is int and 0 <= each < 1 << 63 for each in cast("list[object]", value)
    )


def _num_bytes(entry: TensorEntry) -> int | None:
    """What a tensor takes; None for a number format that is not known here."""
    each = _DTYPE_BYTES.get(entry["dtype"])
    return None if each is None else each * math.prod(entry["shape"])


def _cut(path: Path, size: int, expected: int | None) -> SettingsError:
    of = f" of {expected / 1e6:,.1f}" if expected else ""
    text = msg(
        "{path} is cut: {size}{of} MB are there", path=path, size=f"{size / 1000000.0:,.1f}", of=of
    )
    return SettingsError(text, fix=msg("download it again"))


def refuse_beginning(beginning: bytes) -> None:
    """Raise SettingsError where a file that begins so is no safetensors file."""
    length = struct.unpack("<Q", beginning[:8])[0] if len(beginning) >= 8 else 0
    if len(beginning) >= 9 and not (
        2 <= length <= _LONGEST_HEADER_BYTES and beginning[8:9] == b"{"
    ):
        what, fix = _what_it_is(beginning)
        raise SettingsError(msg("what is there is {what}", what=what), fix=fix)


def _not_safetensors(path: Path, beginning: bytes) -> SettingsError:
    what, fix = _what_it_is(beginning)
    return SettingsError(msg("{path} is {what}", path=path, what=what), fix=fix)


def _what_it_is(beginning: bytes) -> tuple[Message, Message]:
    """What a file that should be safetensors is instead, and what to do."""
    head = beginning.lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return msg("a web page"), msg(
            "download the file itself: its link has /resolve/ in it, not /blob/"
        )
    if head.startswith(b"version https://git-lfs"):
        return (
            msg("a git-lfs pointer, not the weights"),
            msg("run `git lfs pull`, or download the file"),
        )
    if beginning[:2] == b"PK" or beginning[:1] == b"\x80":
        fix = msg("take the .safetensors file of this model, or convert it")
        return msg("a pickle (.ckpt, .bin), which can run code"), fix
    if beginning.startswith(b"GGUF"):
        fix = msg("take the .safetensors file of the model in 16 bits: trainers read no GGUF")
        return msg("a GGUF file, quantised for drawing"), fix
    if not beginning:
        return msg("empty"), msg("download it again")
    return msg("no safetensors file"), msg("take the .safetensors file of the model")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model's folder in diffusers or transformers layout: full precision
    before fp16, one file before shards. Empty where there are none.

    Raises OSError, ValueError or KeyError where the list of shards cannot be read.
    """
    for stem in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16"):
            single = folder / f"{stem}{variant}.safetensors"
            if single.is_file():
                return [single]
            index = folder / f"{stem}.safetensors.index{variant}.json"
            if index.is_file():
                shards = cast("dict[str, str]", read_object(index)["weight_map"])
                return [folder / name for name in sorted(set(shards.values()))]
    return []
