"""Captions that a run drafts itself where its images have none, into the run's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tenner.core.messages import plural
from tenner.dataset.captioning.choice import caption_style
from tenner.dataset.captioning.drafts import Drafts
from tenner.dataset.captioning.models import Kind
from tenner.dataset.findings import printable
from tenner.dataset.inspection import read_sources
from tenner.dataset.reading import Source, draft_name
from tenner.dataset.request import DatasetRequest
from tenner.pipeline.drafting import (
    MODEL_NAMES,
    CaptionRequest,
    DraftTask,
    OnDone,
    draft_tasks,
    fingerprint_of,
)
from tenner.runs.session import Progress
from tenner.settings import Settings


def kind_for(settings: Settings) -> Kind | None:
    """The model that drafts missing captions for these settings, None where they request none."""
    if settings.caption == "never":
        return None
    style = settings.caption
    style = caption_style(settings.base_model) if style == "auto" else style
    return "wd14" if style == "tags" else "qwen"


def drafts_folder(settings: Settings) -> Path:
    """The folder of a run's drafts."""
    return settings.run_dir.path / "captions"


def draft_missing(
    needed: DatasetRequest, settings: Settings, environ: Mapping[str, str], progress: Progress
) -> DatasetRequest:
    """Draft the captions that training images lack, and return the request that reads them too.

    Nothing is drafted where the settings do not request it. Raises TennerError.
    """
    kind = kind_for(settings)
    if kind is None or needed.drafts is None:
        return needed
    heads = replace(needed, decodes=False, validation_split=0.0)
    sources = read_sources(heads, on_bytes=progress.on_bytes)
    device = "cpu" if settings.device == "cpu" else "auto"
    request = CaptionRequest(folder=needed.drafts, kind=kind, device=device)
    if tasks := _missing(sources, needed, request):
        name, count = MODEL_NAMES[kind], plural("{n} caption", "{n} captions", len(tasks))
        progress.on_stage("captions", f"{count} to draft by {name} into {needed.drafts}")
        drafted, left_out, where = draft_tasks(tasks, request, environ, _on_fetched(progress))
        count = plural("{n} caption", "{n} captions", len(drafted))
        without = "".join(f"; none for {printable(each.path)}: {each.why}" for each in left_out[:5])
        progress.on_stage("captions", f"{count} drafted on {where}: read them over{without}")
    return replace(needed, drafted_by="")


def _missing(
    sources: Sequence[Source], needed: DatasetRequest, request: CaptionRequest
) -> list[DraftTask]:
    """The training images without a caption of the user's whose draft is missing or outdated."""
    tasks: list[DraftTask] = []
    for source in sources:
        lacking = {
            file
            for finding in source.findings
            if finding.kind in ("captions_missing", "captions_drafted")
            for file in finding.files
        }
        for image in source.images:
            if image.source not in lacking or image.is_reg or source.drafts is None:
                continue
            trigger = needed.trigger or image.concept
            drafts = Drafts(source.drafts, fingerprint_of(replace(request, trigger=trigger)))
            task = DraftTask(
                image=image.source,
                path=image.source_path,
                caption=draft_name(image.source),
                drafts=drafts,
                trigger=trigger,
            )
            if drafts.state(task.caption) in ("missing", "outdated"):
                tasks.append(task)
    return tasks


def _on_fetched(progress: Progress) -> OnDone:
    """A callback that shows the bytes of a model that is fetched."""

    def on_each(what: str, done: int, total: int | None) -> None:
        if what == "MB fetched" and progress.on_bytes:
            mb = 1_000_000
            progress.on_bytes(done * mb, total * mb if total else None)

    return on_each
