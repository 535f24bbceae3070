"""A cache of one base model's frozen tensors on the device, for a process that trains several jobs.

A training does not change them: the LoRA's weights are separate.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tenner.core.train_job import TrainJob
from tenner.engines.native.parts import GetTensor

Identity = tuple[object, ...]


class CachedBase:
    """Caches one base at a time; another base, precision or layout replaces it."""

    def __init__(self) -> None:
        self._identity: Identity = ()
        self._tensors: dict[tuple[str, str], Tensor] = {}

    @property
    def num_bytes(self) -> int:
        """The size of the cached tensors, in bytes."""
        return sum(each.numel() * each.element_size() for each in self._tensors.values())

    def recorder(self, job: TrainJob, device: torch.device) -> Callable[[str], GetTensor]:
        """A function from a part's name to its `GetTensor`, for the job's base. Raises OSError."""
        layout = job.channels_last is not False
        identity = (*base_identity(Path(job.base)), str(device), job.mixed_precision, layout)
        if identity != self._identity:
            self.drop()
            self._identity = identity
        return self._getter_of

    def drop(self) -> None:
        """Release all tensors."""
        self._tensors.clear()
        self._identity = ()

    def drop_texts(self) -> None:
        """Release the text encoders' tensors."""
        for part, name in list(self._tensors):
            if part.startswith("text_encoder"):
                del self._tensors[part, name]

    def _getter_of(self, part: str) -> GetTensor:
        def get(name: str, make: Callable[[], Tensor]) -> Tensor:
            found = self._tensors.get((part, name))
            if found is None:
                found = self._tensors[part, name] = make()
            return found

        return get


def base_identity(base: Path) -> Identity:
    """The paths, sizes and modification times of a base's weight files. Raises OSError."""
    files = sorted(base.rglob("*.safetensors")) if base.is_dir() else [base]
    stats = [(file, file.stat()) for file in files]
    return tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats)
