"""Whether a run is the same job: a fingerprint of all that the final weights depend on.

A second start resumes the run. If the settings or the dataset have changed, resuming would mix two
jobs, so the difference is reported instead. Options that depend on the card (micro-batch,
checkpointing, precision, attention) are not in it: another card can resume the run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tenner.core.errors import SettingsError
from tenner.core.messages import msg
from tenner.planning.plan import Plan
from tenner.settings.model import Settings

OF_THE_CARD = frozenset(
    (
        "attention",
        "checkpointed_blocks",
        "cuda_graphs",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "max_data_loader_n_workers",
        "mixed_precision",
        "sample_prompts",
        "save_every_n_epochs",
        "save_every_n_steps",
        "torch_compile",
        "train_batch_size",
    )
)
"""Options that may differ between attempts."""
_FILES = ("network_weights", "vae")
"""Files that are compared by name, since folders differ between machines."""


def fingerprint(plan: Plan, settings: Settings, *, dataset: str) -> dict[str, Any]:
    """Everything that the final weights depend on. `dataset` is the hash of its content.

    Lengths given in epochs or shares are compared as given: their steps depend on the batch.
    """
    requested = settings.lr_warmup_steps
    options = {
        key: value
        for key, value in plan.options.by_name().items()
        if value is not None and key not in OF_THE_CARD
    }
    options |= {key: Path(str(options[key])).name for key in _FILES if key in options}
    return {
        "engine": plan.engine,
        "base": f"{Path(plan.base.name).name} ({plan.base.num_bytes} bytes)",
        "dataset": dataset,
        "images_per_step": images_per_step(plan),
        "max_train_epochs": settings.max_train_epochs,
        **json.loads(json.dumps(options)),
        "lr_warmup_steps": plan.options.lr_warmup_steps if requested is None else requested,
    }


def images_per_step(plan: Plan) -> int:
    """The images of one optimizer step, over all processes."""
    options = plan.options
    return options.train_batch_size * options.gradient_accumulation_steps * plan.num_processes


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """The differences between two jobs, as `key: before → now`."""
    return tuple(
        f"{key}: {before.get(key)} → {now.get(key)}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    )


def refuse_other_job(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raise SettingsError with the differences where the run at `where` is another job."""
    differs = difference(before, now) if before else ()
    if differs:
        raise SettingsError(
            msg(
                "{where} holds a run with other settings: {differs}",
                where=where,
                differs="; ".join(differs),
            ),
            fix=msg(
                "choose another output_name, or add --restart to start over (what is here"
                " is moved to another folder)"
            ),
        )
