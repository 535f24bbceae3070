# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
"""A cache of the sampling pipeline between jobs, in the host's memory while none is drawn."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tenner.engines.native.cache import Identity, base_identity
from tenner.families import FAMILIES
from tenner.sample.job import SampleJob
from tenner.sample.load import count_loaded, load_pipeline

_HEADROOM_BYTES = 4 << 30
"""Memory of a card that drawing needs besides the weights: activations of a batch and the VAE."""


class CachedPipeline:
    """Caches the pipeline of one base. `free_memory` frees memory of the card for it."""

    def __init__(self) -> None:
        self.free_memory: Callable[[], None] = lambda: None
        self._identity: Identity = ()
        self._is_kept = True
        self._pipe: Any = None

    def load(self, job: SampleJob) -> Any:
        """As `load_pipeline`: the pipeline without a LoRA. Raises LoadError."""
        identity = _identity(job)
        self._is_kept = FAMILIES[job.family].transformer is None
        if self._pipe is None or identity != self._identity:
            self._pipe = None
            self._free_memory(job, _bytes_on_disk(identity))
            self._pipe, self._identity = load_pipeline(job), identity
        else:
            self._free_memory(job, _bytes_on_disk(identity))
            self._pipe.to(job.device)
        return self._pipe

    def rest(self) -> None:
        """Unload the LoRA and move the pipeline off the card. A pipeline that still has LoRA
        modules is released, and a transformer's, whose weights may lie in several places."""
        if self._pipe is None:
            return
        if not self._is_kept:
            self._pipe = None
            return
        self._pipe.unload_lora_weights()
        if count_loaded(self._pipe):
            self._pipe = None
            return
        self._pipe.to("cpu")

    def _free_memory(self, job: SampleJob, num_bytes: int) -> None:
        if not job.device.startswith("cuda"):
            return
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        if free < num_bytes + _HEADROOM_BYTES:
            self.free_memory()
            torch.cuda.empty_cache()


def _identity(job: SampleJob) -> Identity:
    """All of a job that the pipeline depends on."""
    kind = (job.family, job.tokenizers, job.v_parameterization, job.zero_terminal_snr)
    return (*base_identity(Path(job.base)), *kind, job.sampler, job.device, job.dtype)


def _bytes_on_disk(identity: Identity) -> int:
    """The size of the base's weight files, whatever their precision: at least the pipeline's."""
    return sum(each[1] for each in identity if isinstance(each, tuple))
