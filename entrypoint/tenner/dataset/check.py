"""`tenner check`: all findings about a dataset, for people and for programs.

Unlike an inspection for training it makes no working copy and does not stop at errors: they are
part of the result, beside every image that can be shown.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenner.core.errors import ExitCode, Problem
from tenner.core.messages import msg, plural
from tenner.dataset.findings import FileIssue, Finding, printable
from tenner.dataset.inspection import buckets_of, common_trigger, judge_whole, read_sources
from tenner.dataset.items import ImageItem, spread_regularisation
from tenner.dataset.reading import OnProgress, thumb_path
from tenner.dataset.request import DatasetRequest
from tenner.kohya.buckets import BucketChoice, Buckets, Size
from tenner.storage.http import OnBytes

if TYPE_CHECKING:
    from rich.console import RenderableType

LEVELS = {"error": "red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What `check` found. `thumbs` holds the thumbnail of each image's source file,
    `settings_errors` what a training would refuse of the settings."""

    images: tuple[ImageItem, ...]
    buckets: Buckets
    findings: tuple[Finding, ...]
    left_out: tuple[FileIssue, ...]
    corrected: tuple[FileIssue, ...]
    trigger: str
    num_captions: int
    num_ignored: int
    thumbs: Mapping[Path, Path]
    settings_errors: tuple[Problem, ...] = ()

    @property
    def is_trainable(self) -> bool:
        """Whether neither dataset nor settings forbid a training."""
        return not self.settings_errors and not self.count("error")

    def with_finding(self, kind: str, problem: Problem) -> "CheckResult":
        """The result with one more finding, about something outside the dataset."""
        more = Finding(kind=kind, level=problem.level, text=problem.text, fix=problem.fix)
        return replace(self, findings=(*self.findings, more))

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.findings)

    def exit_code(self, *, strict: bool = False) -> ExitCode:
        """3 where the dataset cannot be trained on; with `strict` where there is a warning."""
        bad = self.count("error") or (strict and self.count("warning"))
        return ExitCode.DATASET if bad else ExitCode.DELIVERED

    def bucket_of(self, image: ImageItem) -> BucketChoice | None:
        try:
            return self.buckets.assign(*image.size)
        except ValueError:
            return None

    def images_by_bucket(self) -> dict[Size, int]:
        """Images with their repeats in each bucket."""
        choices = [(self.bucket_of(image), image.num_repeats) for image in self.images]
        counts: Counter[Size] = Counter()
        for choice, repeats in choices:
            if choice:
                counts[choice.bucket] += repeats
        return dict(sorted(counts.items()))

    def findings_of(self, image: ImageItem) -> tuple[Finding, ...]:
        """What was found about this very image."""
        return tuple(finding for finding in self.findings if image.source in finding.files)

    def to_json(self) -> dict[str, Any]:
        """For programs: stable words, no terminal formatting."""
        return {
            "num_images": len(self.images),
            "num_captions": self.num_captions,
            "num_image_passes": sum(image.num_repeats for image in self.images),
            "trigger": self.trigger,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "num_ignored": self.num_ignored,
            "buckets": [
                {"width": width, "height": height, "image_passes": count}
                for (width, height), count in self.images_by_bucket().items()
            ],
            "findings": [
                {
                    "kind": each.kind,
                    "level": each.level,
                    "text": each.text,
                    "fix": each.fix,
                    "files": [printable(file) for file in each.files],
                }
                for each in self.findings
            ],
            "left_out": [{"path": printable(n.path), "why": n.why} for n in self.left_out],
        }


def check(
    request: DatasetRequest,
    thumbs_dir: Path | None = None,
    on_progress: OnProgress | None = None,
    on_bytes: OnBytes | None = None,
) -> CheckResult:
    """Read and judge the whole dataset; with `thumbs_dir` thumbnails are written there.

    Raises DatasetError only where there is nothing to look at (not there, not fetched).
    """
    buckets = buckets_of(request)
    sources = read_sources(request, on_progress, thumbs_dir, on_bytes)
    images = spread_regularisation([image for source in sources for image in source.images])
    findings = judge_whole(sources, request)
    order = list(LEVELS)
    findings.sort(key=lambda finding: order.index(finding.level))
    thumbs: dict[Path, Path] = {}
    for source in sources:
        if source.thumbs:
            for image in source.images:
                thumbs[image.source_path] = thumb_path(source.thumbs, image.source)
    return CheckResult(
        images=images,
        buckets=buckets,
        findings=tuple(findings),
        left_out=tuple(note for source in sources for note in source.left_out),
        corrected=tuple(note for source in sources for note in source.corrected),
        trigger=request.trigger or common_trigger(sources),
        num_captions=sum(source.num_captions for source in sources),
        num_ignored=sum(source.num_ignored for source in sources),
        thumbs=thumbs,
    )


def headline(result: CheckResult) -> str:
    """The set in one line."""
    trigger = msg('trigger "{trigger}"', trigger=result.trigger)
    passes = sum(image.num_repeats for image in result.images)
    return msg(
        "{images}, {captions}, {trigger}, {passes} images seen in an epoch; {errors}, {warnings}",
        images=plural("{n} image", "{n} images", len(result.images)),
        captions=plural("{n} caption", "{n} captions", result.num_captions),
        trigger=trigger if result.trigger else msg("no trigger"),
        passes=f"{passes:,}",
        errors=plural("{n} error", "{n} errors", result.count("error")),
        warnings=plural("{n} warning", "{n} warnings", result.count("warning")),
    )


def render(result: CheckResult) -> "RenderableType":
    """The findings and the buckets as tables for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in result.findings:
        style = LEVELS[finding.level]
        line = Text(finding.text)
        if finding.fix:
            line.append(f"\n{finding.fix}", style="dim")
        found.add_row(Text(finding.level, style=f"bold {style}"), line)
    sizes = Table(box=None, padding=(0, 2, 0, 0))
    sizes.add_column("bucket", justify="right")
    sizes.add_column("seen in an epoch", justify="right")
    for (width, height), count in result.images_by_bucket().items():
        sizes.add_row(f"{width}×{height}", f"{count:,}")
    return Group(found, Text(), sizes, Text(), Text(headline(result), style="bold"))
