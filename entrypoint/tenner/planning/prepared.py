"""A run that can start: the result of all checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tenner.base.model import Base
from tenner.dataset import Dataset
from tenner.engines.choice import ChosenEngine
from tenner.hardware import Machine
from tenner.hardware.prices import Price
from tenner.planning.plan import Plan
from tenner.settings import Request, Settings


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that can start: each part was checked, and the plan decided."""

    request: Request
    base: Base
    machine: Machine
    dataset: Dataset
    engine: ChosenEngine
    plan: Plan
    host_price: Price | None = None
    broken: Mapping[str, str] = field(default_factory=dict[str, str])
    """Libraries of the trainer that do not work, each with its error message."""
    drafting_seconds: float = 0.0
    """What the captions take that the run is still to draft."""

    @property
    def settings(self) -> Settings:
        return self.request.settings
