"""Writes the one page of a run: everything inside it, nothing fetched, nothing run but our own.

Both languages are in the page; which one shows is the setting's or the browser's choice.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from tenner.core.messages import Message
from tenner.core.sizes import size_words
from tenner.lora_files.judgement import LEAST_RATIO, MOST_RATIO
from tenner.report import labels
from tenner.report.curve import CurveReading, read_curve
from tenner.report.facts import Level, Notice, ReportFacts, SampleImage, SampleSet
from tenner.report.images import PictureStore
from tenner.report.plot import plot_curve
from tenner.sample.cells import USUAL
from tenner.ui.translation import TEXTS, label
from tenner.ui.web_page import content_policy, page_script, page_style

LEVELS: tuple[Level, ...] = ("error", "warning", "note")
MAX_DATASET_IMAGES = 60


LIVE_PARTS = ("state", "numbers", "notices", "loss")
"""What changes during a run; each is a template of its own, in the page and in live.json."""


def render_report(facts: ReportFacts) -> str:
    """The page as HTML. Pictures that cannot be read are shown as such."""
    return render_page(facts, PictureStore())[0]


def render_page(facts: ReportFacts, pictures: PictureStore) -> tuple[str, str]:
    """The page as HTML, and as JSON the parts of it that change while the run is going.

    `outline` in the JSON differs from the page's own when anything else has changed.
    """
    reading = read_curve(facts.curve.steps, facts.curve.losses)
    outline, compared = _outline(facts), compare_epochs(facts.sample_sets)
    context: dict[str, Any] = {
        "facts": facts,
        "language": "en" if facts.language == "auto" else facts.language,
        "style": Markup(page_style()),
        "script": Markup(page_script()),
        "policy": content_policy(page_style(), connects=True),
        "outline": outline,
        "is_running": facts.state in ("training", "trained"),
        "plot": plot_curve(facts.curve),
        "reading": reading,
        "notice_groups": notice_groups(facts.notices),
        "was_ended": facts.state in ("stopped", "budget"),
        "groups": [_as_tables(each) for each in reversed(facts.sample_sets)],
        "download": _download_address(facts),
        "compared": compared,
        "lowest_validation": min(facts.curve.validation, key=lambda each: each[1], default=None),
        "pictures": pictures.inline_all([*_pictures(facts), *_compared_pictures(compared)]),
        "dataset_images": facts.dataset.images[:MAX_DATASET_IMAGES] if facts.dataset else (),
        "next_steps": next_steps(facts, reading),
        "weights_bounds": (LEAST_RATIO, MOST_RATIO),
        "advice": labels.ADVICE.get(reading.reading, ()),
    }
    parts = {name: _template(f"{name}.html").render(context) for name in LIVE_PARTS}
    live = {"outline": outline, "state": facts.state, "step": facts.step, "parts": parts}
    context["parts"] = {name: Markup(text) for name, text in parts.items()}
    return _template("page.html").render(context), json.dumps(live, ensure_ascii=False)


def notice_groups(notices: Sequence[Notice]) -> Mapping[Level, list[tuple[Notice, int]]]:
    """What went wrong, the warnings and the notes, each group that there is, in this order.

    Notices that differ in numbers alone are reported once, by the last of them, with how many they
    are.
    """
    groups: dict[Level, list[tuple[Notice, int]]] = {}
    for level in LEVELS:
        alike: dict[tuple[str, str], tuple[Notice, int]] = {}
        for each in notices:
            if each.level == level:
                key = (re.sub(r"\d+", "0", each.text), each.fix)
                _, times = alike.get(key, (each, 0))
                alike[key] = (each, times + 1)
        if alike:
            groups[level] = list(alike.values())
    return groups


def _download_address(facts: ReportFacts) -> str:
    """The LoRA's address relative to the page: beside the page that is delivered with it, under
    `checkpoints` for the page in the run's folder."""
    name = quote(facts.lora_file.rsplit("/", 1)[-1])
    return f"./{name}" if facts.state == "trained" else f"./checkpoints/{name}"


def _outline(facts: ReportFacts) -> str:
    """A hash of all that the page shows beside its live parts: it changes where the page has to be
    loaded again."""
    drawn = (facts.sample_sets, facts.concept, facts.weights)
    rest = (facts.state, *drawn, facts.files, len(facts.timings))
    return hashlib.sha256(repr(rest).encode()).hexdigest()[:16]


def next_steps(facts: ReportFacts, reading: CurveReading) -> tuple[Message, ...]:
    """What to do next, the most important first."""
    steps: list[Message] = []
    if facts.state == "not_delivered":
        steps.append(labels.NEXT_STEPS["deliver"])
    if facts.state in {"stopped", "budget", "failed"}:
        steps.append(labels.NEXT_STEPS["resume"])
    if facts.sample_sets:
        steps += [labels.NEXT_STEPS["strength"], labels.NEXT_STEPS["compare"]]
    if reading.reading not in ("settled", "fell"):  # comparing epochs is advised above
        steps += labels.ADVICE.get(reading.reading, ())
    steps.append(labels.NEXT_STEPS["rights"])
    return tuple(dict.fromkeys(steps))


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A group of pictures as a table: a row for each seed, a column for each strength."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[SampleImage | None, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class _PictureTables:
    """The pictures drawn at one time, a table for each group."""

    drawn: SampleSet
    tables: tuple[_Table, ...]


def _as_tables(drawn: SampleSet) -> _PictureTables:
    names = dict.fromkeys(image.group for image in drawn.images)
    return _PictureTables(drawn=drawn, tables=tuple(_table(name, drawn) for name in names))


def _table(name: str, drawn: SampleSet) -> _Table:
    own = [image for image in drawn.images if image.group == name]
    at = {(image.row, image.column): image for image in own}
    columns = tuple(dict.fromkeys(image.column for image in own))
    rows = dict.fromkeys(image.row for image in own)
    return _Table(
        name=name,
        columns=columns,
        rows=tuple((row, tuple(at.get((row, column)) for column in columns)) for row in rows),
    )


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """A prompt's pictures at one strength: a row for each seed, a column for each epoch."""

    strength: str
    table: _Table


def compare_epochs(sets: Sequence[SampleSet]) -> list[_Compared]:
    """The prompts that were drawn at several epochs, side by side at the strength nearest to the
    usual one that all of them have. Nothing where there is one set only."""
    if len(sets) < 2:
        return []
    names = [name for name in _groups(sets[0]) if all(name in _groups(each) for each in sets[1:])]
    found = [_compared(name, sets) for name in names]
    return [each for each in found if each is not None]


def _compared(name: str, sets: Sequence[SampleSet]) -> _Compared | None:
    """One prompt at all of `sets`, at the strength nearest to `USUAL` that all of them have; None
    where they share only strength 0. Pictures of averaged weights are left out."""
    own = [[image for image in each.images if image.group == name] for each in sets]
    shared = set[float].intersection(*({each.strength for each in images} for images in own))
    usual = min(shared - {0.0}, key=lambda strength: abs(strength - USUAL), default=None)
    if usual is None:
        return None
    labels = ["the finished LoRA" if each.final else f"epoch {each.epoch}" for each in sets]
    at = {
        (image.row, label): image
        for label, images in zip(labels, own, strict=True)
        for image in images
        if image.strength == usual and not image.ema
    }
    rows = dict.fromkeys(row for row, _ in at)
    table = _Table(
        name=name,
        columns=tuple(labels),
        rows=tuple((row, tuple(at.get((row, label)) for label in labels)) for row in rows),
    )
    return _Compared(strength=f"{usual:g}", table=table)


def _groups(drawn: SampleSet) -> list[str]:
    return list(dict.fromkeys(image.group for image in drawn.images))


def _compared_pictures(compared: Sequence[_Compared]) -> list[Path]:
    shown = (image for each in compared for _, row in each.table.rows for image in row)
    return [image.path for image in shown if image]


def _pictures(facts: ReportFacts) -> list[Path]:
    drawn = [image.path for each in facts.sample_sets for image in each.images]
    shown = facts.dataset.images[:MAX_DATASET_IMAGES] if facts.dataset else ()
    return [*drawn, *(image.path for image in shown)]


@cache
def _packaged_text(name: str) -> str:
    return files("tenner.report").joinpath(name).read_text(encoding="utf-8")


def _template(name: str) -> Template:
    known = {
        **TEXTS,
        "spoken": spoken_duration,
        "labels": labels,
    }
    return _templates().get_template(name, globals=known)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_packaged_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": size_words,
        "usd": lambda value: f"${value:,.2f}",
        "literal": lambda text: json.dumps(text, ensure_ascii=False),
        "number": lambda value: f"{value:,}",
    }
    return environment


def spoken_duration(seconds: float) -> Markup:
    """`12 s`, `3 min 20 s`, `1 h 05 min`, in both languages."""
    whole = round(seconds)
    if whole < 60:
        shown = f"{seconds:.1f}" if seconds < 10 else f"{whole}"
        return label("{seconds} s", seconds=shown)
    minutes, rest = divmod(whole, 60)
    if whole < 3600:
        return label("{minutes} min {seconds} s", minutes=minutes, seconds=f"{rest:02d}")
    return label("{hours} h {minutes} min", hours=minutes // 60, minutes=f"{minutes % 60:02d}")
