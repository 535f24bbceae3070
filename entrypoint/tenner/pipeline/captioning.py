"""A first draft of each caption that is missing: beside the images by `tenner caption`, in the
run's folder by a run whose settings request it.

A file that a human wrote or edited is never touched unless told; a second start resumes where the
first one ended.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tenner.core.errors import DatasetError, MachineError, SettingsError
from tenner.core.messages import msg, plural
from tenner.dataset.captioning.child import CaptionProcess
from tenner.dataset.captioning.choice import caption_style, without_words
from tenner.dataset.captioning.drafts import NOTE, Drafts
from tenner.dataset.captioning.models import PINNED, Kind, find_model, kind_of
from tenner.dataset.captions import find_caption_files
from tenner.dataset.findings import FileIssue, names, printable
from tenner.dataset.inspection import read_sources
from tenner.dataset.judge_captions import led_by
from tenner.dataset.listing import FileEntry, list_files
from tenner.dataset.metadata import read_metadata
from tenner.dataset.reading import Source, draft_name
from tenner.dataset.request import DatasetRequest
from tenner.dataset.view import read_folder_name
from tenner.engines.choice import missing_modules
from tenner.engines.sd_scripts.find import PYTHON_VARIABLE
from tenner.hardware.host import inspect_host
from tenner.runs.session import Progress
from tenner.settings import Settings
from tenner.storage.cache_dir import downloads_dir

MODULES: Mapping[Kind, tuple[str, ...]] = {
    "wd14": ("onnxruntime", "numpy", "PIL"),
    "blip": ("torch", "transformers", "tokenizers", "safetensors", "numpy", "PIL"),
    "qwen": ("torch", "transformers", "tokenizers", "safetensors", "numpy", "PIL"),
}
DESCRIBE = (
    "Describe this picture in one or two plain sentences of at most 40 words together: the subject"
    " first, then what it does or how it stands, clothing, surroundings and light. Say only what"
    " is seen, without naming it a picture, photo or image."
)
"""The question to a model that takes one, unless the user has another."""
OnDone = Callable[[str, int, int | None], None]
"""Called with what is counted, how much is done, and of how much."""


@dataclass(frozen=True, kw_only=True)
class CaptionRequest:
    """What was requested. `output`: another folder than the images' own. `trigger`: None takes
    the concept part of a folder such as `10_sks dog`. `prompt`: None is `DESCRIBE`."""

    folder: Path
    kind: Kind = "wd14"
    model: Path | None = None
    prompt: str | None = None
    trigger: str | None = None
    output: Path | None = None
    overwrite: bool = False
    threshold: float = 0.35
    character_threshold: float = 0.85
    left_out: tuple[str, ...] = ()
    device: str = "auto"


def choose_kind(named: Kind | Literal["auto"], base: str, model: Path | None) -> Kind:
    """The kind that is named, or the user's own model's, or by how the base learnt captions.

    Without a base they are tags, from the smallest model.
    """
    if named != "auto":
        return named
    if model and (own := kind_of(model)):
        return own
    return "qwen" if base and caption_style(base) == "sentences" else "wd14"


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """What was done: names of caption files drafted, and of images that were left as they are."""

    drafted: tuple[str, ...]
    drafted_before: int
    humans: tuple[str, ...]
    left_out: tuple[FileIssue, ...]
    device: str


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One image (`path`, called `image`), the caption file that it gets among `drafts`, and the
    trigger that stands first in it."""

    image: str
    path: Path
    caption: str
    drafts: Drafts
    trigger: str


def draft_captions(
    request: CaptionRequest, environ: Mapping[str, str], on_done: OnDone | None = None
) -> Captioned:
    """Draft what is missing. Raises DatasetError, MachineError or SettingsError."""
    on_each: OnDone = on_done or _say_nothing
    if request.prompt and request.kind != "qwen":
        raise SettingsError(
            msg("--prompt is for a model that can be asked; {kind} takes none", kind=request.kind),
            fix=msg("add --with qwen, or leave --prompt out"),
        )
    entries = _entries(request.folder)
    into = request.output or request.folder
    drafts = Drafts(into, _made_by(request))
    tasks, states, humans = _sort_out(request, entries, drafts)
    drafted, left_out, device = _draft(tasks, request, environ, on_each)
    return Captioned(
        drafted=drafted,
        drafted_before=states["drafted"],
        humans=humans,
        left_out=left_out,
        device=device,
    )


def _draft(
    tasks: Sequence[_Task], request: CaptionRequest, environ: Mapping[str, str], on_each: OnDone
) -> tuple[tuple[str, ...], tuple[FileIssue, ...], str]:
    """Draft them all: the captions' names, the images without one, and where the model ran.

    Raises MachineError, SettingsError.
    """
    if not tasks:
        return (), (), ""
    python = python_for(request.kind, environ)
    cache = downloads_dir(environ)
    mb = 1_000_000
    model = find_model(
        request.kind,
        request.model,
        cache,
        environ,
        lambda done, total: on_each("MB fetched", done // mb, -(-total // mb) if total else None),
    )
    drafted: list[str] = []
    left_out: list[FileIssue] = []
    with CaptionProcess(python, _order(request, model), environ) as process:
        device = process.device()
        for number, task in enumerate(tasks, start=1):
            found = process.draft(task.path)
            words = led_by(_left(str(found.get("caption", "")), request), task.trigger)
            if "caption" in found and words:
                _write(task.drafts, task.caption, words)
                drafted.append(task.caption)
            else:
                why = found.get("unreadable") or found.get("failed") or _nothing(request.kind)
                left_out.append(FileIssue(path=task.image, why=str(why)))
            on_each("images captioned", number, len(tasks))
    return tuple(drafted), tuple(left_out), device


def _left(caption: str, request: CaptionRequest) -> str:
    """A draft without the words to leave out; a tagger has left out tags already."""
    return caption if request.kind == "wd14" else without_words(caption, request.left_out)


def _nothing(kind: Kind) -> str:
    """Why a picture that was seen has no caption."""
    return msg("no tag is likely enough") if kind == "wd14" else msg("no word was written of it")


def _say_nothing(what: str, done: int, total: int | None) -> None:
    del what, done, total


def summary(result: Captioned, request: CaptionRequest) -> str:
    """What was done, in lines for people."""
    drafted = plural("{n} caption", "{n} captions", len(result.drafted))
    lines = [f"{drafted} drafted by {PINNED_NAMES[request.kind]}"]
    if result.drafted:
        lines[0] += f" on {result.device}"
    if result.drafted_before:
        lines.append(f"{result.drafted_before} drafted before, kept")
    if result.humans:
        humans = plural("{n} caption", "{n} captions", len(result.humans))
        lines.append(f"{humans} not ours, left as written: {names(result.humans)}")
    lines += [f"left out: {printable(note.path)}: {note.why}" for note in result.left_out[:20]]
    if len(result.left_out) > 20:
        lines.append(f"and {len(result.left_out) - 20} more")
    if result.drafted:
        lines.append("Drafts are guesses: read them over. A file you edit is never overwritten.")
    return "\n".join(lines)


PINNED_NAMES: Mapping[Kind, str] = {
    "wd14": "the WD14 tagger",
    "blip": "BLIP",
    "qwen": "Qwen2-VL",
}


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


def _sort_out(
    request: CaptionRequest, entries: Sequence[FileEntry], drafts: Drafts
) -> tuple[list[_Task], Counter[str], tuple[str, ...]]:
    """What is to be drafted, how many captions are in which state, and which are a human's."""
    images = [entry for entry in entries if entry.kind == "image"]
    if not images:
        raise DatasetError(
            msg("no images in {folder}", folder=request.folder), fix=msg("name a folder of images")
        )
    lying = find_caption_files(images, entries, None).by_image
    in_table = read_metadata(entries, {image.path for image in images}, request.folder).captions
    shared = Counter((image.folder, image.stem.casefold()) for image in images)
    tasks: list[_Task] = []
    states: Counter[str] = Counter()
    humans: list[str] = []
    for image in images:
        alone = shared[image.folder, image.stem.casefold()] == 1
        own = f"{image.folder}/" * bool(image.folder) + (image.stem if alone else image.name)
        name = f"{own}.txt"
        state = drafts.state(name)
        found = lying.get(image.path)
        if request.output is None and found and found.path != name:
            state, name = "human", found.path  # in another form: `.caption`, `A.TXT`
        elif image.path in in_table and state == "missing":
            state, name = "human", image.path  # in metadata.jsonl
        states[state] += 1
        if state == "human" and not request.overwrite:
            humans.append(name)
        elif state != "drafted":
            task = _Task(
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


def _write(drafts: Drafts, name: str, caption: str) -> None:
    try:
        drafts.write(name, caption)
    except OSError as error:
        raise SettingsError(
            msg(
                "{name} cannot be written: {strerror}",
                name=printable(name),
                strerror=error.strerror or error,
            ),
            fix=msg("make the folder writable, or name another one: --output FOLDER"),
        ) from error


def _made_by(request: CaptionRequest) -> dict[str, object]:
    """Everything that shapes a draft's words."""
    model = PINNED[request.kind]
    tags = (
        [request.threshold, request.character_threshold, sorted(request.left_out)]
        if request.kind == "wd14"
        else sorted(request.left_out)
    )
    own = str(request.model.absolute()) if request.model else f"{model.id}@{model.revision}"
    made_by: dict[str, object] = {"kind": request.kind, "model": own}
    made_by |= {"tags": tags, "trigger": request.trigger}
    if request.kind == "qwen":
        made_by["prompt"] = _prompt(request)
    return made_by


def _prompt(request: CaptionRequest) -> str:
    """What the model is asked, with what it should not name."""
    question = request.prompt or DESCRIBE
    if not request.left_out:
        return question
    return f"{question} Do not mention: {', '.join(request.left_out)}."


def _order(request: CaptionRequest, model: Path) -> dict[str, object]:
    return {
        "kind": request.kind,
        "folder": str(model.absolute()),
        "device": request.device,
        "prompt": _prompt(request),
        "num_threads": max(1, int(inspect_host().cpus)),
        "threshold": request.threshold,
        "character_threshold": request.character_threshold,
        "left_out": list(request.left_out),
    }


def python_for(kind: Kind, environ: Mapping[str, str]) -> Path:
    """A Python that holds what the model needs: this one, or the trainer's."""
    named = environ.get(PYTHON_VARIABLE)
    pythons = [Path(sys.executable), *([Path(named)] if named else [])]
    lacking: list[str] = []
    for python in pythons:
        lacking = missing_modules(python, MODULES[kind])
        if not lacking:
            return python
    raise MachineError(
        msg("drafting captions with {kind} needs {lacking}", kind=kind, lacking=", ".join(lacking)),
        fix=msg("pip install 'tenner[caption]'"),
    )


def kind_for(settings: Settings) -> Kind | None:
    """What drafts missing captions for these settings, None where they do not request it."""
    if settings.caption == "never":
        return None
    style = settings.caption
    style = caption_style(settings.base_model) if style == "auto" else style
    return "wd14" if style == "tags" else "qwen"


def drafts_folder(settings: Settings) -> Path:
    """Where a run keeps its drafts."""
    return settings.run_dir.path / "captions"


def draft_missing(
    needed: DatasetRequest, settings: Settings, environ: Mapping[str, str], progress: Progress
) -> DatasetRequest:
    """Draft what training images lack, into the run's folder, and the request that reads it.

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
        name, count = PINNED_NAMES[kind], plural("{n} caption", "{n} captions", len(tasks))
        progress.on_stage("captions", f"{count} to draft by {name} into {needed.drafts}")
        drafted, left_out, where = _draft(tasks, request, environ, _on_fetched(progress))
        count = plural("{n} caption", "{n} captions", len(drafted))
        without = "".join(f"; none for {printable(each.path)}: {each.why}" for each in left_out[:5])
        progress.on_stage("captions", f"{count} drafted on {where}: read them over{without}")
    return replace(needed, drafted_by="")


def _missing(
    sources: Sequence[Source], needed: DatasetRequest, request: CaptionRequest
) -> list[_Task]:
    """The training images without a caption of the user's whose draft is missing or outdated."""
    tasks: list[_Task] = []
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
            drafts = Drafts(source.drafts, _made_by(replace(request, trigger=trigger)))
            task = _Task(
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
    """What shows the bytes of a model that is fetched."""

    def on_each(what: str, done: int, total: int | None) -> None:
        if what == "MB fetched" and progress.on_bytes:
            mb = 1_000_000
            progress.on_bytes(done * mb, total * mb if total else None)

    return on_each


__all__ = [
    "NOTE",
    "CaptionRequest",
    "Captioned",
    "choose_kind",
    "draft_captions",
    "draft_missing",
    "drafts_folder",
    "kind_for",
    "python_for",
    "summary",
]
