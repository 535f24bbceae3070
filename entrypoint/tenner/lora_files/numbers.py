"""The numbers of safetensors files, read with numpy: also bf16, which numpy does not know."""

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tenner.lora_files.modules import TensorEntry

Array = npt.NDArray[np.float64]

_LAYOUTS = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
_SMALLEST_NORMAL = {"F16": 2.0**-14, "BF16": 2.0**-126, "F32": 2.0**-126, "F64": 2.0**-1022}
_CHUNK_BYTES = 1 << 24


@lru_cache(maxsize=8)
def read_numbers(path: Path, entry: TensorEntry) -> Array:
    """A tensor in fp64; the last few are cached. Raises ValueError where the file is cut or the
    type is not known."""
    with path.open("rb") as file:
        file.seek(entry.start)
        raw = file.read(entry.end - entry.start)
    return _decoded(raw, entry.dtype).astype(np.float64).reshape(entry.shape)


def sum_of_squares(path: Path, entry: TensorEntry) -> float:
    """Of a tensor of any size, read a piece at a time."""
    total, left = 0.0, entry.end - entry.start
    with path.open("rb") as file:
        file.seek(entry.start)
        while left > 0:
            raw = file.read(min(_CHUNK_BYTES, left))
            if not raw:
                raise ValueError(f"{path.name} ends inside {entry.name}")
            left -= len(raw)
            piece = _decoded(raw, entry.dtype)
            total += float(np.dot(piece, piece))
    return total


def _decoded(raw: bytes, dtype: str) -> npt.NDArray[np.floating]:
    """At least fp32, flat."""
    if dtype not in _LAYOUTS:
        raise ValueError(f"numbers of type {dtype} are not known")
    values = np.frombuffer(raw, _LAYOUTS[dtype])
    if dtype == "BF16":  # the upper half of an fp32
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype in ("I64", "I32"):  # flags, such as `on_input`
        return values.astype(np.float64)
    return values if values.itemsize > 4 else values.astype(np.float32)


def rounded(values: Array, dtype: str) -> Array:
    """The nearest numbers that `dtype` can hold, ties to even, in fp64."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float64)
    if dtype == "BF16":
        bits = values.astype(np.float32).view(np.uint32)
        high_bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF_0000)
        return high_bits.view(np.float32).astype(np.float64)
    return values.astype(np.float32).astype(np.float64) if dtype == "F32" else values


def num_zeros(values: Array) -> int:
    return int(values.size - np.count_nonzero(values))


def num_tiny(values: Array, dtype: str) -> int:
    """How many are not zero and below the smallest normal number of `dtype`: of these the
    precision has fewer digits the smaller they are."""
    limit = _SMALLEST_NORMAL.get(dtype, math.inf)
    return int(np.count_nonzero((values != 0) & (np.abs(values) < limit)))
