"""`batch.html`: every job's state, cost and loss, and the same picture of each side by side."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from tenner.core.files import write_atomically
from tenner.core.messages import Message, msg
from tenner.core.run_dir import RunDir
from tenner.queue.labels import job_labels
from tenner.queue.record import JobRecord, JobState
from tenner.report.images import PictureStore
from tenner.sample.job import SAMPLES_FILE, Cell, Samples
from tenner.ui.lines import duration
from tenner.ui.translation import TEXTS
from tenner.ui.web_page import content_policy, page_script, page_style

STATES: Mapping[JobState, Message] = {
    "waiting": msg("waiting"),
    "training": msg("training"),
    "delivered": msg("delivered"),
    "failed": msg("failed"),
    "budget": msg("budget"),
    "stopped": msg("stopped"),
}
NUM_SEEDS = 3
"""Most seeds that are compared: more pictures would have to be smaller."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One seed: a row for each job that has pictures, a column for each strength."""

    prompts: tuple[str, ...]
    seed: int
    strengths: tuple[float, ...]
    rows: tuple[tuple[JobRecord, tuple[Path | None, ...]], ...]


def write_summary(path: Path, name: str, records: Sequence[JobRecord]) -> None:
    """Write the page at `path`, whole or not at all. Raises OSError."""
    write_atomically(path, render_summary(path.parent, name, records))


def render_summary(folder: Path, name: str, records: Sequence[JobRecord]) -> str:
    """The page as HTML; links are relative to `folder`, where it will be."""
    style = page_style() + _packaged_text("page.css")
    seeds = comparisons(records)
    shown = [path for each in seeds for _, paths in each.rows for path in paths if path]
    costs = [each.cost_usd for each in records if each.cost_usd is not None]

    def link(record: JobRecord) -> str:
        return _link(folder, record)

    return _template().render(
        name=name,
        records=records,
        over=all(each.state not in {"waiting", "training"} for each in records),
        num_delivered=sum(each.state == "delivered" for each in records),
        seconds=sum(each.seconds for each in records),
        cost_usd=sum(costs) if costs else None,
        best=min((each.loss for each in records if each.loss is not None), default=None),
        labels=job_labels(records),
        seeds=seeds,
        pictures=PictureStore().inline_all(shown),
        states=STATES,
        style=Markup(style),
        script=Markup(page_script()),
        policy=content_policy(style),
        duration=duration,
        link=link,
    )


def comparisons(records: Sequence[JobRecord]) -> tuple[Comparison, ...]:
    """The pictures that jobs have in common: each job's first prompt, seed by seed."""
    drawn: list[tuple[JobRecord, dict[Cell, Path]]] = []
    for record in records:
        listing = RunDir(Path(record.run)).samples / "final" / SAMPLES_FILE
        try:
            samples = Samples.read(listing).samples
        except (OSError, ValueError):
            continue
        first = samples[0].cell.group if samples else ""
        found = {
            each.cell: listing.parent / each.file for each in samples if each.cell.group == first
        }
        drawn.append((record, found))
    seeds = dict.fromkeys(cell.seed for _, found in drawn for cell in found)
    strengths = sorted({cell.strength for _, found in drawn for cell in found})
    return tuple(
        Comparison(
            prompts=tuple(dict.fromkeys(_prompt(found) for _, found in drawn)),
            seed=seed,
            strengths=tuple(strengths),
            rows=tuple((each, _row(found, seed, strengths)) for each, found in drawn),
        )
        for seed in list(seeds)[:NUM_SEEDS]
    )


def _prompt(found: Mapping[Cell, Path]) -> str:
    """The prompt of a job's pictures at full strength; that of the base has no trigger."""
    return max(found, key=lambda cell: cell.strength).prompt if found else ""


def _row(
    found: Mapping[Cell, Path], seed: int, strengths: Sequence[float]
) -> tuple[Path | None, ...]:
    by_strength = {cell.strength: path for cell, path in found.items() if cell.seed == seed}
    return tuple(by_strength.get(each) for each in strengths)


def _link(folder: Path, record: JobRecord) -> str:
    """The job's own page, as seen from the summary; empty where there is none yet."""
    report = RunDir(Path(record.run)).report
    return os.path.relpath(report.absolute(), folder.absolute()) if report.is_file() else ""


def _packaged_text(name: str) -> str:
    return (files("tenner.queue") / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    known: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined}
    environment = Environment(trim_blocks=True, lstrip_blocks=True, **known)
    return environment.from_string(_packaged_text("page.html"), globals=TEXTS)
