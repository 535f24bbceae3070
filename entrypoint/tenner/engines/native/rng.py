"""Random generators of a run, each seeded by what its numbers are for.

No generator's state is carried from step to step. Each is seeded by the run's seed, its purpose and
its position (step, sample), so a resumed run has the numbers of an uninterrupted one, and two
processes have those of one. Generators are on the CPU, since a card's numbers depend on its model:
the same seed gives the same noise on every card.

Purposes, and the order in which one generator is used, are part of the result: with another name or
order, the same seed trains another LoRA, and a run resumed after an update differs from its start.
"""

import hashlib
import random

import torch


def seed_of(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for `purpose`: a name, then numbers or names that make it unique."""
    name = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_rng(seed: int, *purpose: int | str) -> torch.Generator:
    """torch's CPU generator for `purpose`."""
    return torch.Generator().manual_seed(seed_of(seed, *purpose))


def python_rng(seed: int, *purpose: int | str) -> random.Random:
    """Python's generator for `purpose`: orders, captions, cuts."""
    return random.Random(seed_of(seed, *purpose))
