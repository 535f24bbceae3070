"""Safetensors files read one tensor at a time, each into its own memory.

A memory-mapped file is quicker to open, but its pages count as the process's memory until it is
closed: a base model would need its size twice while it is loaded. The system may also drop mapped
pages and read them again at every step.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenner.core.errors import SettingsError
from tenner.core.safetensors_head import data_start, read_safetensors_header, tensor_entries

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class TensorFile(Mapping[str, Tensor]):
    """The tensors of one file; each look-up reads its tensor anew.

    Raises ValueError for a file that is no safetensors file or is cut, and OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._entries = tensor_entries(read_safetensors_header(path))
            self._start = data_start(path)
        except SettingsError as error:
            raise ValueError(error.problems[0].text) from None

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        begin, end = entry["data_offsets"]
        raw = torch.empty(end - begin, dtype=torch.uint8)
        buffer: Any = raw.numpy()
        with self._path.open("rb") as file:
            file.seek(self._start + begin)
            if raw.numel() and file.readinto(buffer) != raw.numel():
                raise ValueError(f"{self._path.name} ends inside {name}")
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{name} has numbers of the format {entry['dtype']}")
        return raw.view(dtype).view(tuple(entry["shape"]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Renamed(Mapping[str, Tensor]):
    """Some tensors of other mappings under other names, looked up when requested."""

    def __init__(self, sources: Mapping[str, tuple[Mapping[str, Tensor], str]]) -> None:
        self._sources = dict(sources)

    @staticmethod
    def of(tensors: Mapping[str, Tensor], prefix: str) -> "Renamed":
        """The tensors whose names begin with `prefix`, by the rest of their names."""
        return Renamed(
            {name[len(prefix) :]: (tensors, name) for name in tensors if name.startswith(prefix)}
        )

    @staticmethod
    def joined(parts: Sequence[Mapping[str, Tensor]]) -> "Renamed":
        """The tensors of all `parts`: the shards of one model."""
        return Renamed({name: (part, name) for part in parts for name in part})

    def __getitem__(self, name: str) -> Tensor:
        tensors, original = self._sources[name]
        return tensors[original]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)
