"""Whether a run's directory holds this very job: what shapes the weights, noted and compared.

A second start goes on where the first one was. If the settings or the dataset changed meanwhile,
going on would mix two jobs, so the difference is shown instead.
"""

import json
from typing import Any

from tenner.errors import SettingsError
from tenner.preparation import Prepared
from tenner.run_dir import RunDir, write_json


def fingerprint(prepared: Prepared) -> dict[str, Any]:
    """Everything that the final weights depend on."""
    plan = prepared.plan
    options = {key: value for key, value in plan.options.items() if value is not None}
    return {
        "engine": plan.engine,
        "base": f"{plan.base.name} ({plan.base.num_bytes} bytes)",
        "dataset": prepared.dataset.content_hash,
        "num_processes": plan.num_processes,
        **json.loads(json.dumps(options)),
    }


def check_fingerprint(prepared: Prepared, place: RunDir) -> None:
    """Note the job, or compare it with the one that is there.

    Raises SettingsError with what differs.
    """
    path = place.path / "job-fingerprint.json"
    now = fingerprint(prepared)
    before = _read(place)
    differs = [
        f"{key}: {before.get(key)} → {now.get(key)}"
        for key in sorted({*before, *now})
        if before and before.get(key) != now.get(key)
    ]
    if differs:
        raise SettingsError(
            f"{place.path} holds a run with other settings: {'; '.join(differs)}",
            fix="choose another output_name, or remove that folder to start over",
        )
    write_json(path, now)


def _read(place: RunDir) -> dict[str, Any]:
    try:
        return json.loads((place.path / "job-fingerprint.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
