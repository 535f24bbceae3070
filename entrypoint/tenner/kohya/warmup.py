"""Which schedules of sd-scripts take no warm-up."""

from collections.abc import Mapping, Sequence


def takes_no_warmup(values: Mapping[str, object]) -> bool:
    """Whether sd-scripts stops with an error when this schedule is given warm-up steps."""
    optimizer = str(values.get("optimizer_type") or "").lower()
    if optimizer.endswith("schedulefree"):
        return False  # its scheduler is a dummy that looks at nothing
    given = values.get("optimizer_args")
    words: Sequence[object] = list(given) if isinstance(given, list | tuple) else []  # pyright: ignore[reportUnknownArgumentType]
    if optimizer == "adafactor" and "relative_step=False" not in words:
        return True  # brings a scheduler of its own
    name = str(values.get("lr_scheduler") or "constant")
    return bool(values.get("lr_scheduler_type")) or name in ("constant", "piecewise_constant")
