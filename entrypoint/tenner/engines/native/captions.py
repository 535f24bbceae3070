"""A picture's caption for one sample: as written, or with tags shuffled, some or all dropped."""

import re
from dataclasses import replace
from random import Random

from tenner.core.train_job import TrainJob
from tenner.engines.native.rng import python_rng


def draw_caption(job: TrainJob, caption: str, *, epoch: int, position: int) -> str:
    """The text of one sample; `epoch` counts from 0, `position` is its number in the run.

    As in sd-scripts only the first line counts (with `enable_wildcard` a random one), the first
    `keep_tokens` tags are neither moved nor dropped, and a whole caption is dropped either by
    chance or in every n-th epoch.
    """
    rng = python_rng(job.seed, "caption", position)
    dropped = rng.random() < job.caption_dropout_rate
    every = job.caption_dropout_every_n_epochs
    if dropped or (every > 0 and (epoch + 1) % every == 0):
        return ""
    line = _drawn(caption, rng) if job.enable_wildcard else caption.split("\n", 1)[0]
    if not (job.shuffle_caption or job.caption_tag_dropout_rate > 0):
        return line
    before, tags, after = _parts(job, line)
    if job.shuffle_caption:
        rng.shuffle(tags)
    left = [tag for tag in tags if rng.random() >= job.caption_tag_dropout_rate]
    return ", ".join([*before, *left, *after])


def fixed_captions(job: TrainJob) -> list[str] | None:
    """All texts that the job trains with; None where random captions make the list unlimited."""
    if job.shuffle_caption or job.caption_tag_dropout_rate > 0 or job.enable_wildcard:
        return None
    plain = replace(job, caption_dropout_rate=0.0, caption_dropout_every_n_epochs=0)
    found = [draw_caption(plain, item.caption, epoch=0, position=0) for item in job.items]
    found += [item.caption for item in job.validation_items]
    if job.caption_dropout_rate > 0 or job.caption_dropout_every_n_epochs > 0:
        found.append("")
    return list(dict.fromkeys(found))


def _drawn(caption: str, rng: Random) -> str:
    """A random line, with a random choice of each `{red|blue}`; `{{` and `}}` are plain braces."""
    line = rng.choice(caption.split("\n"))
    pieces = re.split(r"(\{\{|\}\})", line)  # doubled braces are themselves, nothing to rng
    marked = "".join({"{{": "\0", "}}": "\1"}.get(piece, piece) for piece in pieces)
    chosen = re.sub(r"\{([^}]+)\}", lambda found: rng.choice(found[1].split("|")), marked)
    return chosen.replace("\0", "{").replace("\1", "}")


def _parts(job: TrainJob, line: str) -> tuple[list[str], list[str], list[str]]:
    """Fixed tags at the start, tags that may be moved or dropped, fixed tags at the end."""
    separator = job.keep_tokens_separator
    if separator and separator in line:
        first, rest = line.split(separator, 1)
        middle, _, last = rest.partition(separator)
        return _tags(job, first), _tags(job, middle), _tags(job, last)
    tags = [tag.strip() for tag in line.strip().split(job.caption_separator)]
    return tags[: job.keep_tokens], tags[job.keep_tokens :], []


def _tags(job: TrainJob, text: str) -> list[str]:
    return [tag.strip() for tag in text.split(job.caption_separator) if tag.strip()]
