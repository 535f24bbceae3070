"""`tenner caption`: a first draft of each caption that is missing, beside the images.

A file that a person wrote or edited is never overwritten unless that is requested. A second start
drafts only what the first one did not.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tenner.core.errors import DatasetError, SettingsError
from tenner.core.messages import msg, plural
from tenner.dataset.captioning.choice import caption_style
from tenner.dataset.captioning.drafts import Drafts
from tenner.dataset.captioning.models import Kind, kind_of
from tenner.dataset.captions import find_caption_files
from tenner.dataset.findings import FileIssue, names, printable
from tenner.dataset.folder_name import read_folder_name
from tenner.dataset.listing import FileEntry, list_files
from tenner.dataset.metadata import read_metadata
from tenner.pipeline.drafting import (
    MODEL_NAMES,
    CaptionRequest,
    DraftTask,
    OnDone,
    draft_tasks,
    fingerprint_of,
)


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """Names of the caption files drafted now, `num_reused` of them as drafted before for the same
    pictures; of those that a person wrote; and of the images without a caption."""

    drafted: tuple[str, ...]
    num_reused: int
    drafted_before: int
    humans: tuple[str, ...]
    left_out: tuple[FileIssue, ...]
    device: str


def choose_kind(named: Kind | Literal["auto"], base: str, model: Path | None) -> Kind:
    """The kind that is named, else that of the user's own model, else by the base's captions.

    Without a base it is `wd14`, the smallest model.
    """
    if named != "auto":
        return named
    if model and (own := kind_of(model)):
        return own
    return "qwen" if base and caption_style(base) == "sentences" else "wd14"


def draft_captions(
    request: CaptionRequest, environ: Mapping[str, str], on_done: OnDone | None = None
) -> Captioned:
    """Draft what is missing. Raises DatasetError, MachineError or SettingsError."""
    on_each: OnDone = on_done or _show_nothing
    if request.prompt and request.kind != "qwen":
        raise SettingsError(
            msg(
                "--prompt is for a model that answers one; {kind} takes none",
                kind=request.kind,
            ),
            fix=msg("add --with qwen, or leave --prompt out"),
        )
    entries = _entries(request.folder)
    into = request.output or request.folder
    drafts = Drafts(into, fingerprint_of(request))
    tasks, states, humans = _tasks_of(request, entries, drafts)
    found = draft_tasks(tasks, request, environ, on_each)
    return Captioned(
        drafted=found.names,
        num_reused=found.num_reused,
        drafted_before=states["drafted"],
        humans=humans,
        left_out=found.left_out,
        device=found.device,
    )


def _show_nothing(what: str, done: int, total: int | None) -> None:
    del what, done, total


def summary(result: Captioned, request: CaptionRequest) -> str:
    """What was done, in lines for people."""
    drafted = plural("{n} caption", "{n} captions", len(result.drafted))
    lines = [f"{drafted} drafted by {MODEL_NAMES[request.kind]}"]
    if result.device:
        lines[0] += f" on {result.device}"
    if result.num_reused:
        lines.append(f"{result.num_reused} of them as drafted before for the same pictures")
    if result.drafted_before:
        lines.append(f"{result.drafted_before} drafted before, left as they are")
    if result.humans:
        humans = plural("{n} caption", "{n} captions", len(result.humans))
        lines.append(f"{humans} not ours, left as written: {names(result.humans)}")
    lines += [f"left out: {printable(note.path)}: {note.why}" for note in result.left_out[:20]]
    if len(result.left_out) > 20:
        lines.append(f"and {len(result.left_out) - 20} more")
    if result.drafted:
        lines.append("Drafts are guesses: read them over. A file you edit is never overwritten.")
    return "\n".join(lines)


def _entries(folder: Path) -> tuple[FileEntry, ...]:
    try:
        return list_files(folder)
    except OSError as error:
        raise DatasetError(
            msg(
                "{folder} cannot be read: {strerror}",
                folder=folder,
                strerror=error.strerror or error,
            ),
            fix=msg("name a folder of images"),
        ) from None


def _tasks_of(
    request: CaptionRequest, entries: Sequence[FileEntry], drafts: Drafts
) -> tuple[list[DraftTask], Counter[str], tuple[str, ...]]:
    """The captions to draft, how many captions are in each state, and which a person wrote."""
    images = [entry for entry in entries if entry.kind == "image"]
    if not images:
        raise DatasetError(
            msg("no images in {folder}", folder=request.folder), fix=msg("name a folder of images")
        )
    beside = find_caption_files(images, entries, None).by_image
    in_table = read_metadata(entries, {image.path for image in images}, request.folder).captions
    shared = Counter((image.folder, image.stem.casefold()) for image in images)
    tasks: list[DraftTask] = []
    states: Counter[str] = Counter()
    humans: list[str] = []
    for image in images:
        alone = shared[image.folder, image.stem.casefold()] == 1
        own = f"{image.folder}/" * bool(image.folder) + (image.stem if alone else image.name)
        name = f"{own}.txt"
        state = drafts.state(name)
        found = beside.get(image.path)
        if request.output is None and found and found.path != name:
            state, name = "human", found.path  # in another form: `.caption`, `A.TXT`
        elif image.path in in_table and state == "missing":
            state, name = "human", image.path  # in metadata.jsonl
        states[state] += 1
        if state == "human" and not request.overwrite:
            humans.append(name)
        elif state != "drafted":
            task = DraftTask(
                image=image.path,
                path=request.folder / image.path,
                caption=name,
                drafts=drafts,
                trigger=_trigger(request, image),
            )
            tasks.append(task)
    return tasks, states, tuple(humans)


def _trigger(request: CaptionRequest, image: FileEntry) -> str:
    if request.trigger is not None:
        return request.trigger
    folder = image.folder.rpartition("/")[2] or request.folder.absolute().name
    named = read_folder_name(folder)
    return named.concept if named else ""
