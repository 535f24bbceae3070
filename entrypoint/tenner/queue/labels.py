"""How the jobs of a batch are named beside each other: by what differs between them. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from tenner.queue.record import JobRecord

LONG_NAME = 24
"""Letters; shorter names are shown whole, whatever they have in common."""


def value_slug(value: Any) -> str:
    """A value as part of a job's name: `0.0002`, the last part of a path, `none`."""
    text = f"{value:g}" if isinstance(value, float) else str(value).rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "none"


@dataclass(frozen=True, kw_only=True)
class JobLabel:
    """What distinguishes a job from the others: its own name, where it has one, and its
    settings."""

    name: str
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """In one line: `dog, network_dim 8`."""
        return ", ".join([*filter(None, [self.name]), *(" ".join(each) for each in self.pairs)])


def job_labels(records: Sequence[JobRecord]) -> Mapping[str, JobLabel]:
    """A label for each job by its name.

    Settings that are the same in all jobs are left out; so is the name that a sweep's jobs share.
    """
    keys = [key for key in _swept_keys(records) if len(_values(records, key)) > 1]
    pairs = {
        each.name: tuple((key, _shown(each.swept[key])) for key in keys if key in each.swept)
        if each.swept
        else ()
        for each in records
    }
    own = {each.name: _own_name(each) for each in records}
    swept = [each.name for each in records if pairs[each.name]]
    are_one_sweep = (
        len(swept) == len(records)
        and len(set(own.values())) == 1
        and len(set(pairs.values())) == len(records)
    )
    if are_one_sweep:
        own = dict.fromkeys(own, "")
    elif len(set(own.values())) > 1:
        own = _without_common_start(own)
    return {name: JobLabel(name=own[name], pairs=pairs[name]) for name in own}


def _swept_keys(records: Sequence[JobRecord]) -> list[str]:
    return list(dict.fromkeys(key for each in records for key in each.swept or {}))


def _values(records: Sequence[JobRecord], key: str) -> set[str]:
    return {repr((each.swept or {}).get(key)) for each in records}


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _own_name(record: JobRecord) -> str:
    """The name without the settings that a sweep put at its end."""
    name, left = record.name, dict(record.swept or {})
    while found := next((k for k, v in left.items() if name.endswith(f"-{k}-{value_slug(v)}")), ""):
        name = name.removesuffix(f"-{found}-{value_slug(left.pop(found))}")
    return name


def _without_common_start(names: Mapping[str, str]) -> dict[str, str]:
    """Long names without the words that all of them begin with, which `…` replaces."""
    if max(map(len, names.values())) <= LONG_NAME:
        return dict(names)
    words = [re.split(r"(?<=[-_. ])", own) for own in names.values()]
    alike = takewhile(
        lambda same: len(set(same)) == 1, zip(*(each[:-1] for each in words), strict=False)
    )
    start = "".join(same[0] for same in alike)
    return {name: f"…{own.removeprefix(start)}" if start else own for name, own in names.items()}
