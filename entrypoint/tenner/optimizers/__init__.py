"""The optimizers that a LoRA can be trained with: what each takes, needs and recommends.

One table for both trainers (`table`), read by the rules, the memory model and the disk's, and the
defaults that an optimizer's authors recommend where a user leaves a setting open (`recommended`).
Standard library only.
"""

from tenner.optimizers.recommended import with_recommended
from tenner.optimizers.table import OPTIMIZERS, Kind, Optimizer, find_optimizer, state_bytes

__all__ = [
    "OPTIMIZERS",
    "Kind",
    "Optimizer",
    "find_optimizer",
    "state_bytes",
    "with_recommended",
]
