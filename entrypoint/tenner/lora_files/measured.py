"""The measurement of a LoRA's weights by network part, as JSON between processes."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from tenner.core.network_parts import Part


@dataclass(frozen=True, kw_only=True)
class MeasureJob:
    """What to measure. `base` is the base model, `start` the LoRA that the training started from,
    `reference` the same weights before they were saved in a smaller precision; empty where there
    is none. `family` is that of a base in one file."""

    path: str
    base: str = ""
    family: str = ""
    start: str = ""
    reference: str = ""


@dataclass(frozen=True, kw_only=True)
class PartMeasure:
    """The modules of one network part.

    `num_unchanged` are modules whose update is zero or, against a start, the start's own.
    `norm` is the update's Frobenius norm over all modules whose kind has one (`num_measured`),
    `base_norm` that of the weights they adapt, of a large base estimated from some of them; both
    over the same modules where `num_on_base` is all of them. `moved` is the norm of the update less
    the start's. `tiny_share` is the share of numbers in the matrices that start at zero (`lora_up`)
    that are not zero and below the smallest normal number of their precision, `zero_share` of those
    that are zero. `lost` is the rounding error of saving: |update - reference| / |reference|.
    """

    part: Part
    num_modules: int
    num_unchanged: int
    num_measured: int
    norm: float
    num_on_base: int = 0
    base_norm: float | None = None
    moved: float | None = None
    start_norm: float | None = None
    zero_share: float = 0.0
    tiny_share: float = 0.0
    dtype: str = ""
    lost: float | None = None

    @property
    def ratio(self) -> float | None:
        """|update| / |weights|; None where the base was not measured, or does not fit."""
        if not self.base_norm or self.num_on_base < self.num_measured or not self.num_measured:
            return None
        return self.norm / self.base_norm

    @property
    def moved_ratio(self) -> float | None:
        """|update - start's update| / |weights|; the ratio of the whole update without a start."""
        if self.ratio is None or self.moved is None or not self.base_norm:
            return self.ratio
        return self.moved / self.base_norm

    @property
    def is_unchanged(self) -> bool:
        return self.num_unchanged == self.num_modules


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All parts; `base_problem` is why there are no ratios, where a base was named."""

    parts: tuple[PartMeasure, ...]
    base_problem: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Measured":
        """Raises ValueError, KeyError or TypeError where `text` is something else."""
        found: dict[str, Any] = json.loads(text)
        known = {each.name for each in fields(PartMeasure)}
        parts = tuple(
            PartMeasure(**{key: value for key, value in each.items() if key in known})
            for each in found["parts"]
        )
        return cls(parts=parts, base_problem=str(found.get("base_problem", "")))
