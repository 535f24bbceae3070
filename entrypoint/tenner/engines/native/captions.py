"""What text a picture is shown with this time: shuffled, thinned, dropped, or as written."""

import re
from dataclasses import replace
from random import Random

from tenner.core.train_job import TrainJob
from tenner.engines.native.rng import python_draw


def draw_caption(job: TrainJob, caption: str, *, epoch: int, position: int) -> str:
    """The text for one showing; `epoch` counts from 0, `position` names the showing in the run.

    As in sd-scripts only the first line counts unless one is drawn, `keep_tokens` tags at the
    start stay in place, and a caption is dropped whole either by chance or in every n-th epoch.
    """
    draw = python_draw(job.seed, "caption", position)
    dropped = draw.random() < job.caption_dropout_rate
    every = job.caption_dropout_every_n_epochs
    if dropped or (every > 0 and (epoch + 1) % every == 0):
        return ""
    line = _drawn(caption, draw) if job.enable_wildcard else caption.split("\n", 1)[0]
    if not (job.shuffle_caption or job.caption_tag_dropout_rate > 0):
        return line
    before, tags, after = _parts(job, line)
    if job.shuffle_caption:
        draw.shuffle(tags)
    left = [tag for tag in tags if draw.random() >= job.caption_tag_dropout_rate]
    return ", ".join([*before, *left, *after])


def fixed_captions(job: TrainJob) -> list[str] | None:
    """All texts that the job's pictures are ever shown with; None where they are drawn anew."""
    if job.shuffle_caption or job.caption_tag_dropout_rate > 0 or job.enable_wildcard:
        return None
    plain = replace(job, caption_dropout_rate=0.0, caption_dropout_every_n_epochs=0)
    found = [draw_caption(plain, item.caption, epoch=0, position=0) for item in job.items]
    found += [item.caption for item in job.validation_items]
    if job.caption_dropout_rate > 0 or job.caption_dropout_every_n_epochs > 0:
        found.append("")
    return list(dict.fromkeys(found))


def _drawn(caption: str, draw: Random) -> str:
    """One of the lines, with one of the words of each `{red|blue}`."""
    line = draw.choice(caption.split("\n"))
    pieces = re.split(r"(\{\{|\}\})", line)  # doubled braces are themselves, nothing to draw
    marked = "".join({"{{": "\0", "}}": "\1"}.get(piece, piece) for piece in pieces)
    chosen = re.sub(r"\{([^}]+)\}", lambda found: draw.choice(found[1].split("|")), marked)
    return chosen.replace("\0", "{").replace("\1", "}")


def _parts(job: TrainJob, line: str) -> tuple[list[str], list[str], list[str]]:
    """Tags that stay at the start, tags that may move or go, tags that stay at the end."""
    separator = job.keep_tokens_separator
    if separator and separator in line:
        first, rest = line.split(separator, 1)
        middle, _, last = rest.partition(separator)
        return _tags(job, first), _tags(job, middle), _tags(job, last)
    tags = [tag.strip() for tag in line.strip().split(job.caption_separator)]
    return tags[: job.keep_tokens], tags[job.keep_tokens :], []


def _tags(job: TrainJob, text: str) -> list[str]:
    return [tag.strip() for tag in text.split(job.caption_separator) if tag.strip()]
