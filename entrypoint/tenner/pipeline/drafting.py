"""Drafts of captions by a model, which runs in a process of its own."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tenner.core.errors import MachineError, SettingsError
from tenner.core.messages import msg
from tenner.dataset.captioning.child import CaptionProcess
from tenner.dataset.captioning.choice import without_words
from tenner.dataset.captioning.drafts import Drafts
from tenner.dataset.captioning.models import PINNED, Kind, find_model
from tenner.dataset.captioning.shared_drafts import SharedDrafts
from tenner.dataset.findings import FileIssue, printable
from tenner.dataset.judge_captions import led_by
from tenner.engines.choice import missing_modules
from tenner.engines.sd_scripts.find import PYTHON_VARIABLE
from tenner.hardware.host import inspect_host
from tenner.storage.cache_dir import downloads_dir

MODULES: Mapping[Kind, tuple[str, ...]] = {
    "wd14": ("onnxruntime", "numpy", "PIL"),
    "blip": ("torch", "transformers", "tokenizers", "safetensors", "numpy", "PIL"),
    "qwen": ("torch", "transformers", "tokenizers", "safetensors", "numpy", "PIL"),
}
MODEL_NAMES: Mapping[Kind, str] = {
    "wd14": "the WD14 tagger",
    "blip": "BLIP",
    "qwen": "Qwen2-VL",
}
DESCRIBE = (
    "Describe this picture in one or two plain sentences of at most 40 words together: the subject"
    " first, then what it does or how it stands, clothing, surroundings and light. Say only what"
    " is seen, without naming it a picture, photo or image."
)
"""The question to a model that takes one, unless the user has another."""
OnDone = Callable[[str, int, int | None], None]
"""Called with what is counted, the number done, and the number in all where it is known."""


@dataclass(frozen=True, kw_only=True)
class CaptionRequest:
    """What to draft, and how.

    `output` is the captions' folder, None the images' own. `trigger` None is the concept in the
    name of a folder such as `10_sks dog`, and `prompt` None is `DESCRIBE`.
    """

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


@dataclass(frozen=True, kw_only=True)
class DraftTask:
    """One image to caption.

    `path` is its file and `image` its name in messages; `caption` is the name of its caption file
    in the folder of `drafts`, and `trigger` the caption's first words.
    """

    image: str
    path: Path
    caption: str
    drafts: Drafts
    trigger: str


@dataclass(frozen=True, kw_only=True)
class DraftedCaptions:
    """Names of the caption files written, `num_reused` of them as drafted before for the same
    pictures; the images without a caption; the device that the model used, empty where it did not
    run."""

    names: tuple[str, ...] = ()
    num_reused: int = 0
    left_out: tuple[FileIssue, ...] = ()
    device: str = ""


def draft_tasks(
    tasks: Sequence[DraftTask], request: CaptionRequest, environ: Mapping[str, str], on_each: OnDone
) -> DraftedCaptions:
    """Draft all captions. Raises MachineError, SettingsError."""
    shared = _shared_drafts(request, environ)
    names: list[str] = []
    remaining: list[DraftTask] = []
    for task in tasks:
        known = shared.find(task.path) if shared else None
        text = _caption(known, task, request) if known else ""
        if text:
            _write(task.drafts, task.caption, text)
            names.append(task.caption)
        else:
            remaining.append(task)
    if not remaining:
        return DraftedCaptions(names=tuple(names), num_reused=len(names))
    drafted = _by_model(remaining, request, environ, on_each, shared)
    return replace(drafted, names=(*names, *drafted.names), num_reused=len(names))


def _by_model(
    tasks: Sequence[DraftTask],
    request: CaptionRequest,
    environ: Mapping[str, str],
    on_each: OnDone,
    shared: SharedDrafts | None,
) -> DraftedCaptions:
    """Start the model and draft the captions of `tasks`. Raises MachineError, SettingsError."""
    python = python_for(request.kind, environ)
    mb = 1_000_000
    model = find_model(
        request.kind,
        request.model,
        downloads_dir(environ),
        environ,
        lambda done, total: on_each("MB fetched", done // mb, -(-total // mb) if total else None),
    )
    drafted: list[str] = []
    left_out: list[FileIssue] = []
    with CaptionProcess(python, _job(request, model), environ) as process:
        device = process.device()
        for number, task in enumerate(tasks, start=1):
            found = process.draft(task.path)
            text = _caption(str(found.get("caption", "")), task, request)
            if "caption" in found and text:
                if shared and found["caption"]:
                    shared.add(task.path, str(found["caption"]))
                _write(task.drafts, task.caption, text)
                drafted.append(task.caption)
            else:
                why = found.get("unreadable") or found.get("failed") or _why_empty(request.kind)
                left_out.append(FileIssue(path=task.image, why=str(why)))
            on_each("images captioned", number, len(tasks))
    return DraftedCaptions(names=tuple(drafted), left_out=tuple(left_out), device=device)


def _shared_drafts(request: CaptionRequest, environ: Mapping[str, str]) -> SharedDrafts | None:
    """The drafts of all runs on this machine; None for a user's own model, whose files may change
    under the same name."""
    if request.model is not None:
        return None
    made_by = fingerprint_of(replace(request, trigger=None))
    return SharedDrafts(downloads_dir(environ) / "captions", made_by)


def _caption(text: str, task: DraftTask, request: CaptionRequest) -> str:
    """A model's text with the trigger in front, without the words to leave out."""
    return led_by(_without_left_out(text, request), task.trigger)


def _without_left_out(caption: str, request: CaptionRequest) -> str:
    """A draft without the words to leave out; a tagger has left out tags already."""
    return caption if request.kind == "wd14" else without_words(caption, request.left_out)


def _why_empty(kind: Kind) -> str:
    """Why a picture got no caption from a model that could read it."""
    return msg("no tag is likely enough") if kind == "wd14" else msg("no word was written of it")


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


def fingerprint_of(request: CaptionRequest) -> dict[str, object]:
    """Everything that decides a draft's words: drafts of another fingerprint are outdated."""
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
    """The question to the model, with the words that it should leave out."""
    question = request.prompt or DESCRIBE
    if not request.left_out:
        return question
    return f"{question} Do not mention: {', '.join(request.left_out)}."


def _job(request: CaptionRequest, model: Path) -> dict[str, object]:
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
