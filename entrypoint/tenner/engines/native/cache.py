"""The frozen tensors of one base model, kept on the device from one training to the next.

Nothing in a training changes them: a LoRA lies beside the layers that it adapts.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tenner.core.train_job import TrainJob
from tenner.engines.native.parts import GetTensor

Identity = tuple[object, ...]


class CachedBase:
    """Holds one base at a time; another base, precision or layout takes its place."""

    def __init__(self) -> None:
        self._identity: Identity = ()
        self._tensors: dict[tuple[str, str], Tensor] = {}

    @property
    def num_bytes(self) -> int:
        return sum(each.numel() * each.element_size() for each in self._tensors.values())

    def recorder(self, job: TrainJob, device: torch.device) -> Callable[[str], GetTensor]:
        """What keeps the tensors of each part of the job's base. Raises OSError."""
        layout = job.channels_last is not False
        identity = (*base_identity(Path(job.base)), str(device), job.mixed_precision, layout)
        if identity != self._identity:
            self.drop()
            self._identity = identity
        return self._getter_of

    def drop(self) -> None:
        """Let go of everything."""
        self._tensors.clear()
        self._identity = ()

    def drop_texts(self) -> None:
        """Let go of the text encoders alone."""
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
    """A base's path and the size and time of its weight files. Raises OSError."""
    files = sorted(base.rglob("*.safetensors")) if base.is_dir() else [base]
    stats = [(file, file.stat()) for file in files]
    return tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats)
