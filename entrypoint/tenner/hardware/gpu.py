"""What a graphics card is to the rest of the program: a name, memory in MiB, a capability."""

import re
from dataclasses import dataclass

Capability = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card, or one slice of a card (MIG). `None` where the driver does not report it."""

    index: int
    """Its index in nvidia-smi's list, which is PCI bus order. Slices share their card's."""
    name: str
    driver: str
    uuid: str = ""
    total_mib: int | None = None
    free_mib: int | None = None
    """What other processes leave. A card is sized by this, never by its nameplate."""
    capability: Capability | None = None
    slice_index: int | None = None
    """Which MIG slice of the card it is; `None` for a whole card."""
    is_divided: bool = False
    """MIG is on for this card, so its memory as a whole cannot be used."""

    @property
    def is_slice(self) -> bool:
        return self.slice_index is not None

    @property
    def label(self) -> str:
        """`GPU 0 NVIDIA A100-SXM4-80GB (MIG slice 1)`, for sentences."""
        slice_text = f" (MIG slice {self.slice_index})" if self.is_slice else ""
        return f"GPU {self.index} {self.name}{slice_text}"


def version_numbers(text: str) -> tuple[int, ...]:
    """`570.9.1` as numbers, so that 570.9 sorts below 570.124."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def capability_text(capability: Capability) -> str:
    """`8.9`."""
    return f"{capability[0]}.{capability[1]}"
