"""The memory and time models against the public measurements they were fitted to, row by row.

python -m bench.calibration
"""

import statistics
from collections.abc import Sequence

from tenner.hardware.cards.measured import measured_memory, measured_speed
from tenner.planning.speed import modelled_row
from tenner.planning.vram import Load, memory_parts


def memory_rows() -> list[tuple[str, float, float]]:
    """(case, measured GB, modelled GB)."""
    found: list[tuple[str, float, float]] = []
    for row in measured_memory():
        load = Load(
            family=row.family,
            pixels=row.side**2,
            network_dim=row.network_dim,
            text_encoder_trained=row.text_encoder_trained,
            engine=row.engine,
        )
        parts = dict(
            memory_parts(
                load, batch_size=row.batch_size, gradient_checkpointing=row.gradient_checkpointing
            )
        )
        if row.scope == "allocator":
            del parts["context"], parts["reserve"]
        saving = ", checkpointing" if row.gradient_checkpointing else ""
        case = f"{row.card} {row.family} {row.side} batch {row.batch_size}{saving}"
        found.append((case, row.gb, sum(parts.values())))
    return found


def speed_rows() -> list[tuple[str, float, float]]:
    """(case, measured seconds, modelled seconds)."""
    found: list[tuple[str, float, float]] = []
    for row in measured_speed():
        if row.cuda_graphs:
            continue  # the model knows no gain of them
        saving = ", checkpointing" if row.gradient_checkpointing else ""
        text = ", text encoders" if row.text_encoder_trained else ""
        case = f"{row.card} {row.family} {row.side} batch {row.batch_size}{saving}{text}"
        found.append((case, row.seconds_per_step, modelled_row(row)))
    return found


def show(title: str, unit: str, rows: Sequence[tuple[str, float, float]]) -> None:
    """Print rows and, below, the median error and the worst."""
    print(f"{title}\n{'':52}measured  model ({unit})")
    errors = [(model / measured - 1, case) for case, measured, model in rows]
    for (case, measured, model), (error, _) in zip(rows, errors, strict=True):
        print(f"  {case:50} {measured:7.3f} {model:7.3f} {error:+7.1%}")
    middle = statistics.median(abs(error) for error, _ in errors)
    low, high = min(errors), max(errors)
    print(f"  median error {middle:.1%}; lowest {low[0]:+.1%} ({low[1]}); highest {high[0]:+.1%}\n")


if __name__ == "__main__":
    show("memory", "GB", memory_rows())
    show("time", "s", speed_rows())
