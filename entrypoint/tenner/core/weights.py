"""Whether a LoRA file is one: readable to its last byte, and every number finite.

Works on the bytes with the standard library alone, so that the program, which checks what the
trainer wrote, needs no package of the trainer's environment. A 38 MB file takes about a tenth of a
second.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from tenner.core.errors import Problem, SettingsError
from tenner.core.messages import msg
from tenner.core.safetensors_head import (
    METADATA,
    TensorEntry,
    data_start,
    read_safetensors_header,
    tensor_entries,
)

_CHUNK_BYTES = 1 << 20
CUT_FIX = msg("look whether the disk is full, and start the same command again")
"""The fix for a cut file that a run itself has just written, which cannot be fetched again."""


@dataclass(frozen=True, kw_only=True)
class FloatFormat:
    """The layout of a number: its size in bytes, and a mask of the exponent's bits. A number with
    all of these set is infinite or NaN."""

    num_bytes: int
    exponent: int


FORMATS: Mapping[str, FloatFormat] = {
    "F16": FloatFormat(num_bytes=2, exponent=0x7C00),
    "BF16": FloatFormat(num_bytes=2, exponent=0x7F80),
    "F32": FloatFormat(num_bytes=4, exponent=0x7F80_0000),
    "F64": FloatFormat(num_bytes=8, exponent=0x7FF0_0000_0000_0000),
}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A LoRA file that was read and found good."""

    path: Path
    num_bytes: int
    metadata: Mapping[str, str]


def ema_path(path: Path) -> Path:
    """The path of the moving average of the weights at `path`: `lora-ema.safetensors` beside
    `lora.safetensors`."""
    return path.with_name(f"{path.stem}-ema{path.suffix}")


def inspect_weights(path: Path) -> Weights | Problem:
    """The weights at `path`, or what is wrong with them. Raises OSError."""
    if not path.is_file():
        return Problem(
            text=msg("there is no weights file {path}", path=path),
            fix=msg("see the engine's log beside it"),
        )
    try:
        header = read_safetensors_header(path)
    except SettingsError as error:
        return replace(error.problems[0], fix=CUT_FIX)
    metadata: dict[str, str] = header.get(METADATA, {})
    tensors = tensor_entries(header)
    if not tensors:
        return Problem(text=msg("{path} holds no tensors", path=path), fix=msg("train again"))
    broken = tuple(_not_finite(path, tensors))
    if broken:
        shown = ", ".join(broken[:3]) + (" …" if len(broken) > 3 else "")
        return Problem(
            text=msg(
                "{path} has numbers that are not finite in {n} tensors: {shown}",
                path=path,
                n=len(broken),
                shown=shown,
            ),
            fix=msg("lower learning_rate, or set mixed_precision = 'bf16' (or 'no')"),
        )
    return Weights(path=path, num_bytes=path.stat().st_size, metadata=metadata)


def any_not_finite(data: bytes, layout: FloatFormat) -> bool:
    """Whether any number in `data` (little-endian, whole numbers of them) is NaN or infinite.

    All numbers are tested at once, as one long integer: all bits but the exponents' are cleared;
    then adding the exponent's lowest bit to each carries into the sign bit exactly where all
    exponent bits were set.
    """
    lanes = len(data) // layout.num_bytes
    lowest = layout.exponent & -layout.exponent
    exponents = int.from_bytes(data, "little") & _repeat(layout.exponent, lanes, layout.num_bytes)
    carried = exponents + _repeat(lowest, lanes, layout.num_bytes)
    return bool(carried & _repeat(1 << (8 * layout.num_bytes - 1), lanes, layout.num_bytes))


def _repeat(value: int, lanes: int, num_bytes: int) -> int:
    return int.from_bytes(value.to_bytes(num_bytes, "little") * lanes, "little")


def _not_finite(path: Path, tensors: Mapping[str, TensorEntry]) -> Iterator[str]:
    """The names of tensors that hold a NaN or an infinity."""
    start = data_start(path)
    with path.open("rb") as file:
        for name, tensor in tensors.items():
            layout = FORMATS.get(tensor["dtype"])
            begin, end = tensor["data_offsets"]
            if layout and any(
                any_not_finite(chunk, layout) for chunk in _chunks(file, start + begin, end - begin)
            ):
                yield name


def _chunks(file: BinaryIO, start: int, num_bytes: int) -> Iterator[bytes]:
    file.seek(start)
    while num_bytes > 0:
        chunk = file.read(min(_CHUNK_BYTES, num_bytes))
        if not chunk:
            return
        num_bytes -= len(chunk)
        yield chunk
