"""Where every random number of a run comes from: a pure function of what it is for.

Nothing is drawn from a generator that carries on from step to step. A draw is named by the seed,
its purpose and the place it is used at (step, sample), so a resumed run draws what the unbroken
run would have drawn, and two processes draw what one would have. All draws are made on the CPU:
the same seed gives the same noise on every card.
"""

import hashlib
import random

import torch


def seed_of(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed for the draws of `purpose` (a name, then numbers)."""
    name = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_rng(seed: int, *purpose: int | str) -> torch.Generator:
    """A CPU generator for the draws of `purpose`."""
    return torch.Generator().manual_seed(seed_of(seed, *purpose))


def python_draw(seed: int, *purpose: int | str) -> random.Random:
    """A generator of Python's own for the draws of `purpose` (order, captions)."""
    return random.Random(seed_of(seed, *purpose))
