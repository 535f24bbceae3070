"""How often the reading of a loss curve is right, silent or wrong, on curves whose truth is known.

    python bench/curve_reading.py [CURVES]      200 curves of each kind by default

Curves resemble a diffusion step's loss: a shape times log-normal noise of sigma 0.2 to 0.6, which
the step's timestep and noise make, and optionally correlated from step to step (AR(1) with
0.3, as a running mean or an accumulated batch makes it). Shapes are random too: how deep, how fast,
from where. `silent` is "too noisy to judge" or "it fell, unclear whether it settled". The
error rate is a share of all curves, with the upper end of its 95 % interval (Wilson 1927).
"""

import math
import random
import sys
from collections import Counter
from collections.abc import Callable

from tenner.report.curve import read_curve

Shape = Callable[[float], float]
LENGTHS = (200, 1000, 5000, 20_000)
SILENT = {"noisy", "fell"}


def settles(chance: random.Random) -> Shape:
    depth, pace = chance.uniform(0.3, 0.7), chance.uniform(0.05, 0.15)
    return lambda t: 0.1 * (1 + depth * math.exp(-t / pace))


def falls(chance: random.Random) -> Shape:
    slope = chance.uniform(0.3, 0.6)
    return lambda t: 0.16 * (1 - slope * t)


def flat(chance: random.Random) -> Shape:
    level = chance.uniform(0.05, 0.2)
    return lambda _: level


def rises(chance: random.Random) -> Shape:
    depth, share, climb = chance.uniform(0.2, 0.5), chance.uniform(0.4, 0.7), chance.uniform(0.3, 1)
    return lambda t: 0.1 * (1 + depth * math.exp(-t / 0.1) + climb * max(0.0, t - share))


def nan(chance: random.Random) -> Shape:
    end = chance.uniform(0.3, 0.85)
    return lambda t: 0.12 if t < end else math.nan


KINDS: dict[str, tuple[Callable[[random.Random], Shape], str]] = {
    "settles": (settles, "settled"),
    "falls to the end": (falls, "falling"),
    "flat": (flat, "flat"),
    "rises again": (rises, "rising"),
    "becomes NaN": (nan, "nan"),
}


def curve(shape: Shape, num_steps: int, chance: random.Random) -> list[float]:
    sigma, memory = chance.uniform(0.2, 0.6), chance.choice((0.0, 0.3))
    found: list[float] = []
    state = 0.0
    for step in range(num_steps):
        state = memory * state + math.sqrt(1 - memory**2) * chance.gauss(0, 1)
        found.append(shape(step / num_steps) * math.exp(sigma * state - sigma**2 / 2))
    return found


def upper_end(wrong: int, count: int) -> float:
    """Of the 95 % interval of a share (Wilson's score)."""
    z, share = 1.96, wrong / count
    middle = share + z * z / (2 * count)
    width = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle + width) / (1 + z * z / count)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print("| curve | steps | right | silent | wrong | at most (95 %) | wrong as |")
    print("|---|---|---|---|---|---|---|")
    all_wrong = all_curves = 0
    for name, (kind, right) in KINDS.items():
        for num_steps in LENGTHS:
            found = Counter[str]()
            for seed in range(count):
                chance = random.Random(f"{name} {num_steps} {seed}")
                losses = curve(kind(chance), num_steps, chance)
                found[read_curve(range(num_steps), losses).reading] += 1
            silent = sum(found[each] for each in SILENT)
            wrong = count - found[right] - silent
            all_wrong, all_curves = all_wrong + wrong, all_curves + count
            others = ", ".join(
                f"{reading} {times}"
                for reading, times in found.most_common()
                if reading != right and reading not in SILENT
            )
            shares = [found[right] / count, silent / count, wrong / count, upper_end(wrong, count)]
            reported = " | ".join(f"{share:.1%}" for share in shares)
            print(f"| {name} | {num_steps:,} | {reported} | {others} |", flush=True)
    print(f"\nwrong: {all_wrong} of {all_curves} ({all_wrong / all_curves:.2%})")


if __name__ == "__main__":
    main()
