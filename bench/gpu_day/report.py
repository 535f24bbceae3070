"""From rows to `measured.toml`, a table for the docs, and how far off the plan's models are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.gpu_day.rows import read_rows


def write_report(folder: Path) -> str:
    """Write measured.toml and report.md into the folder; the latter's text."""
    rows = [row for row in read_rows(folder / "rows.jsonl") if row.get("passed")]
    trained = [row for row in rows if row.get("seconds_per_step") or row.get("allocated_gb")]
    toml = "\n".join(part for row in trained for part in _toml(row))
    (folder / "measured.toml").write_text(toml, encoding="utf-8")
    text = "\n".join([_HEAD, *(_line(row) for row in trained)]) + "\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    return text


_HEAD = (
    "| row | card | s/step | allocated GB | reserved GB | model GB | model's error |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
)


def _line(row: Mapping[str, Any]) -> str:
    modelled, reserved = _modelled_gb(row), row.get("reserved_gb")
    error = f"{modelled / reserved - 1:+.0%}" if modelled and reserved else ""
    numbers = (row.get("seconds_per_step"), row.get("allocated_gb"), reserved, modelled)
    cells = ["" if number is None else f"{number:.3f}" for number in numbers]
    return f"| {row['name']} | {row['card']} | {' | '.join(cells)} | {error} |"


def _modelled_gb(row: Mapping[str, Any]) -> float | None:
    """The memory model's value without CUDA's context, which no allocator counts."""
    from tenner.planning.vram import Load, memory_parts

    if row.get("family") not in ("sd1", "sdxl") or not row.get("network_dim"):
        return None
    load = Load(
        family=row["family"],
        pixels=row["side"] ** 2,
        network_dim=row["network_dim"],
        text_encoder_trained=row.get("network_train_unet_only") is False,
        optimizer=row.get("optimizer_type") or "AdamW8bit",
        full_precision=row.get("mixed_precision") == "no",
        engine="sd-scripts" if row.get("engine") == "sd-scripts" else "native",
        cuda_graphs=bool(row.get("cuda_graphs")),
    )
    saving = bool(row.get("gradient_checkpointing"))
    parts = memory_parts(
        load,
        batch_size=row["train_batch_size"],
        gradient_checkpointing=saving,
        checkpointed_blocks=row.get("checkpointed_blocks"),
    )
    return sum(gb for name, gb in parts.items() if name != "context")


def _toml(row: Mapping[str, Any]) -> list[str]:
    """[[memory]] and [[speed]] of a row, as `hardware/cards/measured.toml` holds them; nothing of
    one that recomputed only some blocks, which the models interpolate, and no memory of CUDA
    graphs, in which there is more than what images take."""
    if row.get("checkpointed_blocks") is not None:
        return []
    about: dict[str, Any] = {
        "card": row["card"],
        "family": row["family"],
        "side": row["side"],
        "batch_size": row["train_batch_size"],
        "gradient_checkpointing": bool(row.get("gradient_checkpointing")),
        "text_encoder_trained": row.get("network_train_unet_only") is False,
        "engine": "sd-scripts" if row.get("engine") == "sd-scripts" else "native",
        "source": "gpu_day",
    }
    found: list[str] = []
    if row.get("allocated_gb") and row.get("network_dim") and not row.get("cuda_graphs"):
        memory = {"network_dim": row["network_dim"], "gb": round(row["allocated_gb"], 3)}
        found.append(_table("memory", about | memory | {"scope": "allocator"}, row))
    if row.get("seconds_per_step"):
        speed = {"gradient_accumulation_steps": 1}
        speed["seconds_per_step"] = round(row["seconds_per_step"], 4)
        if row.get("cuda_graphs"):
            speed["cuda_graphs"] = True
        found.append(_table("speed", about | speed, row))
    return found


def _table(kind: str, values: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    lines = [f"# {row['name']}, {row.get('engine')}, torch {row['torch']}", f"[[{kind}]]"]
    for key, value in values.items():
        if isinstance(value, bool):
            lines.append(f"{key} = {str(value).lower()}")
        else:
            lines.append(f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}")
    return "\n".join(lines) + "\n"
