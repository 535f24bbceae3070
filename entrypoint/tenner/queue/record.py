"""What is known of each job of a batch: `batch.json`, read again at the next start."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from tenner.core.files import write_json
from tenner.core.messages import has_id, message_of
from tenner.settings import Request
from tenner.settings.saved import settings_toml

JobState = Literal["waiting", "training", "delivered", "failed", "budget", "stopped"]
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job. Seconds and dollars are those of all its starts; paths are the run's own.

    `digest` identifies the settings that the record is about.
    """

    name: str
    run: str
    digest: str
    state: JobState = "waiting"
    exit_code: int | None = None
    problems: tuple[str, ...] = ()
    seconds: float = 0.0
    cost_usd: float | None = None
    steps: int = 0
    num_steps: int = 0
    loss: float | None = None
    destinations: tuple[str, ...] = ()
    node: str = ""
    """Where it ran last, where that was another machine."""
    swept: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do, in this start or a later one."""
        return self.state == "delivered"


def new_record(request: Request, folder: Path) -> JobRecord:
    """The record of a job that has not been started. `folder` is its run's."""
    swept = {
        key: getattr(request.settings, key, None)
        for key, where in request.set_at.items()
        if where.endswith("[sweep]")
    }
    text = settings_toml(request)
    # Written as before the built-in trainer was renamed, so that the records of older batches hold.
    text = text.replace('engine = "native"', 'engine = "diffusers"', 1)
    return JobRecord(
        name=request.settings.output_name,
        run=str(folder),
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
        swept=swept or None,
    )


def read_records(path: Path) -> dict[str, JobRecord]:
    """The records at `path` by the job's name; none where there is no such file yet."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        listed: list[dict[str, Any]] = found["jobs"] if found["format"] == FORMAT else []
        known = {each.name for each in fields(JobRecord)}
        records = [
            _with_messages(
                JobRecord(**{key: _plain(value) for key, value in each.items() if key in known}),
                each.get("messages") or [],
            )
            for each in listed
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {each.name: each for each in records}


def write_records(path: Path, records: Sequence[JobRecord]) -> None:
    """Write the records, with what they add up to. Raises OSError."""
    costs = [each.cost_usd for each in records if each.cost_usd is not None]
    states = [each.state for each in records]
    total = {
        "format": FORMAT,
        "seconds": sum(each.seconds for each in records),
        "cost_usd": sum(costs) if costs else None,
        "states": {state: states.count(state) for state in sorted(set(states))},
    }
    write_json(path, {**total, "jobs": [_json(each) for each in records]})


def _json(record: JobRecord) -> dict[str, Any]:
    """A record as JSON; beside the English of its problems are their ids and values."""
    messages = [each.to_json() if has_id(each) else None for each in record.problems]
    return asdict(record) | ({"messages": messages} if any(messages) else {})


def _with_messages(record: JobRecord, messages: list[Any]) -> JobRecord:
    """The record with its problems as messages, where they were written as such."""
    if len(messages) != len(record.problems):
        return record
    problems = (
        message_of(each, text) for each, text in zip(messages, record.problems, strict=True)
    )
    return replace(record, problems=tuple(problems))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
