"""Published measurements on real cards, in `measured.toml` with their sources."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from tenner.core.family import Family

Trainer = Literal["sd-scripts", "native"]


@dataclass(frozen=True, kw_only=True)
class MeasuredMemory:
    """GB that a training used. `scope` is whether CUDA's context is included; `engine` the
    trainer whose model the row is held against ("sd-scripts" for others' trainers too)."""

    card: str
    family: Family
    side: int
    network_dim: int
    batch_size: int
    gradient_checkpointing: bool
    text_encoder_trained: bool
    gb: float
    scope: Literal["allocator", "process"]
    source: str
    engine: Trainer = "sd-scripts"


@dataclass(frozen=True, kw_only=True)
class MeasuredSpeed:
    """Seconds that an optimizer step took, accumulation included."""

    card: str
    family: Family
    side: int
    batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    text_encoder_trained: bool
    seconds_per_step: float
    source: str
    engine: Trainer = "sd-scripts"
    cuda_graphs: bool = False


@cache
def measured_memory() -> tuple[MeasuredMemory, ...]:
    return tuple(MeasuredMemory(**row) for row in _rows("memory"))


@cache
def measured_speed() -> tuple[MeasuredSpeed, ...]:
    return tuple(MeasuredSpeed(**row) for row in _rows("speed"))


def _rows(kind: str) -> list[dict[str, Any]]:
    text = (resources.files("tenner.hardware.cards") / "measured.toml").read_text(encoding="utf-8")
    read = tomllib.loads(text)
    return [{**row, "source": read["sources"][row["source"]]} for row in read[kind]]
