"""Captions that a run drafts itself where its images have none, into the run's folder.

They are stored at the destinations too: a run that is resumed on another machine trains on the same
captions, and is the same job.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tenner.core.errors import DeliveryError
from tenner.core.files import write_atomically
from tenner.core.messages import plural
from tenner.core.run_dir import RunDir
from tenner.core.secrets import secrets_from
from tenner.dataset.captioning.choice import caption_style
from tenner.dataset.captioning.drafts import Drafts, pack_drafts, unpack_drafts
from tenner.dataset.captioning.models import Kind
from tenner.dataset.findings import Finding, printable
from tenner.dataset.inspection import read_sources
from tenner.dataset.reading import Source, draft_name
from tenner.dataset.request import DatasetRequest
from tenner.pipeline.drafting import (
    MODEL_NAMES,
    CaptionRequest,
    DraftedCaptions,
    DraftTask,
    OnDone,
    draft_tasks,
    fingerprint_of,
)
from tenner.planning.drafting import drafting_seconds
from tenner.runs.remote_run import RemoteRun
from tenner.runs.resume import READ_SECONDS
from tenner.runs.session import Progress
from tenner.runs.upload_item import DRAFTS_FILE
from tenner.settings import Settings
from tenner.storage.destination_address import parse_destinations


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


def expected_drafting_seconds(
    settings: Settings, findings: Sequence[Finding], *, has_card: bool, num_cpus: float
) -> float:
    """What the captions take that a run would draft; 0 where it drafts none."""
    kind = kind_for(settings)
    if kind is None:
        return 0.0
    missing = {file for each in findings if each.kind == "captions_missing" for file in each.files}
    return drafting_seconds(kind, len(missing), has_card=has_card, num_cpus=num_cpus)


def draft_missing(
    needed: DatasetRequest, settings: Settings, environ: Mapping[str, str], progress: Progress
) -> DatasetRequest:
    """Draft the captions that training images lack, and return the request that reads them too.

    Nothing is drafted where the settings do not request it. Raises TennerError.
    """
    kind = kind_for(settings)
    if kind is None or needed.drafts is None:
        return needed
    if not needed.drafts.exists():
        _fetch_drafts(needed.drafts, settings, environ, progress)
    heads = replace(needed, decodes=False, validation_split=0.0)
    sources = read_sources(heads, on_bytes=progress.on_bytes)
    device = "cpu" if settings.device == "cpu" else "auto"
    request = CaptionRequest(folder=needed.drafts, kind=kind, device=device)
    if tasks := _missing(sources, needed, request):
        name, count = MODEL_NAMES[kind], plural("{n} caption", "{n} captions", len(tasks))
        progress.on_stage("captions", f"{count} to draft by {name} into {needed.drafts}")
        found = draft_tasks(tasks, request, environ, _on_fetched(progress))
        progress.on_stage("captions", _summary(found))
    return replace(needed, drafted_by="")


def _summary(found: DraftedCaptions) -> str:
    count = plural("{n} caption", "{n} captions", len(found.names))
    on = f" on {found.device}" if found.device else ""
    reused = f", {found.num_reused} of them before for the same pictures" * bool(found.num_reused)
    without = "".join(
        f"; none for {printable(each.path)}: {each.why}" for each in found.left_out[:5]
    )
    return f"{count} drafted{on}{reused}: read them over{without}"


def _fetch_drafts(
    folder: Path, settings: Settings, environ: Mapping[str, str], progress: Progress
) -> None:
    """Bring the drafts of this run that an earlier machine stored at a destination, if any did."""
    secrets, _ = secrets_from(environ)
    destinations, _ = parse_destinations(settings.destinations)
    for each in destinations:
        remote = RemoteRun(each, settings.output_name, secrets, environ)
        try:
            content = remote.get_file(DRAFTS_FILE, limit_seconds=READ_SECONDS)
            number = unpack_drafts(content, folder) if content else 0
        except (DeliveryError, OSError) as error:
            progress.on_stage("captions", f"the drafts at {each} cannot be read: {error}")
            continue
        if number:
            count = plural("{n} caption", "{n} captions", number)
            progress.on_stage("captions", f"{count} drafted on an earlier machine, from {each}")
            return


def pack_run_drafts(run_dir: RunDir, settings: Settings) -> None:
    """Write the drafts of a run as one file, which is sent to its destinations. Raises OSError."""
    folder = drafts_folder(settings)
    if folder.is_dir():
        write_atomically(run_dir.path / DRAFTS_FILE, pack_drafts(folder))


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
