"""What is wrong with the captions as a whole: coverage, trigger, length, boilerplate. Pure."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from tenner.base.tokenizers.counting import count_tokens, most_tokens
from tenner.core.messages import msg, plural
from tenner.dataset.captions import Caption
from tenner.dataset.findings import Finding, names

BOILERPLATE_SHARE = 0.9
MIN_CAPTIONS_FOR_BOILERPLATE = 8


def has_trigger(text: str, trigger: str) -> bool:
    """Whether every line contains the trigger letter for letter, as separate words."""
    pattern = re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)")
    return all(pattern.search(line) for line in text.split("\n"))


def with_trigger(text: str, trigger: str) -> str:
    """The caption with the trigger in front of each line that lacks it."""
    return "\n".join(_line_with_trigger(line, trigger) for line in text.split("\n"))


def led_by(text: str, trigger: str) -> str:
    """The caption with the trigger first, and as a tag only there."""
    if not trigger:
        return text
    tags = [tag for tag in text.split(", ") if tag != trigger]
    return ", ".join([trigger, *filter(None, tags)])


def _line_with_trigger(line: str, trigger: str) -> str:
    if has_trigger(line, trigger):
        return line
    return f"{trigger}, {line}" if line else trigger


def judge_captions(
    captions: Mapping[str, Caption],
    *,
    triggers: Mapping[str, str],
    extension: str,
    add_trigger: bool,
    max_token_length: int,
    enable_wildcard: bool = False,
    drafted_by: str = "",
) -> list[Finding]:
    """Findings about the training images' captions, by image path; `triggers` names the trigger
    of each image that has one. `drafted_by` is the model that drafts missing ones, if any does."""
    return [
        *_coverage(captions, extension, drafted_by),
        *_several_lines(captions, enable_wildcard=enable_wildcard),
        *_trigger_findings(captions, triggers, add_trigger=add_trigger),
        *_too_long(captions, max_token_length),
        *_boilerplate(captions),
    ]


def _coverage(captions: Mapping[str, Caption], extension: str, drafted_by: str) -> list[Finding]:
    missing = [path for path, caption in captions.items() if caption.file is None]
    total = len(captions)
    if not missing:
        text = msg(
            "captions: {total} of {images}",
            total=f"{total:,}",
            images=plural("{n} image", "{n} images", total),
        )
        return [Finding(kind="captions", level="note", text=text)]
    if drafted_by:
        return [_to_be_drafted(missing, total, drafted_by)]
    texts = sorted({captions[path].text for path in missing})
    instead = (
        msg('"{text}" is used instead', text=texts[0])
        if texts and texts[0]
        else msg("they train on an empty caption")
    )
    text = msg(
        "captions: {total} of {images}; {instead}",
        total=f"{total - len(missing):,}",
        images=plural("{n} image", "{n} images", total),
        instead=instead,
    )
    if len(missing) < total:
        text = msg("{text}; without one: {names}", text=text, names=names(missing))
    fix = msg(
        "draft them by `tenner caption`, or write a {extension} file for each of them",
        extension=extension,
    )
    return [
        Finding(kind="captions_missing", level="warning", text=text, fix=fix, files=tuple(missing))
    ]


def _to_be_drafted(missing: Sequence[str], total: int, model: str) -> Finding:
    text = msg(
        "captions: {total} of {images}; train drafts the others by {model} before it begins",
        total=f"{total - len(missing):,}",
        images=plural("{n} image", "{n} images", total),
        model=model,
    )
    fix = msg("draft them now by `tenner caption`, to read them over first")
    return Finding(kind="captions_missing", level="note", text=text, fix=fix, files=tuple(missing))


def _several_lines(captions: Mapping[str, Caption], *, enable_wildcard: bool) -> list[Finding]:
    several = [path for path, caption in captions.items() if len(caption.lines) > 1]
    if not several or enable_wildcard:
        return []
    return [
        Finding(
            kind="caption_lines",
            level="warning",
            text=msg(
                "{captions} of several lines, of which the first is read: {names}",
                captions=plural("{n} caption", "{n} captions", len(several)),
                names=names(several),
            ),
            fix=msg("put the caption on one line, or set enable_wildcard to draw one of the lines"),
            files=tuple(several),
        )
    ]


def _trigger_findings(
    captions: Mapping[str, Caption], triggers: Mapping[str, str], *, add_trigger: bool
) -> list[Finding]:
    findings: list[Finding] = []
    for trigger in sorted(set(triggers.values())):
        texts = {path: captions[path].text for path, own in triggers.items() if own == trigger}
        without = [path for path, text in texts.items() if not has_trigger(text, trigger)]
        if without and add_trigger:
            text = msg(
                'trigger "{trigger}" put in front of {captions}',
                trigger=trigger,
                captions=plural("{n} caption", "{n} captions", len(without)),
            )
            findings.append(
                Finding(kind="trigger_added", level="note", text=text, files=tuple(without))
            )
        elif without:
            findings.append(_without_trigger(trigger, texts, without))
    return findings


def _without_trigger(trigger: str, texts: Mapping[str, str], without: Sequence[str]) -> Finding:
    text = msg(
        '{n} of {captions} without the trigger "{trigger}"',
        n=f"{len(without):,}",
        captions=plural("{n} caption", "{n} captions", len(texts)),
        trigger=trigger,
    )
    near = Counter(found for path in without if (found := _near_miss(texts[path], trigger)))
    if near:
        listed = ", ".join(f'"{found}" {count} times' for found, count in near.most_common(3))
        text = msg("{text}; they write {words}", text=text, words=listed)
    return Finding(
        kind="trigger_missing",
        level="warning",
        text=msg("{text}: {names}", text=text, names=names(without)),
        fix=msg("write it letter for letter, or set add_trigger = true"),
        files=tuple(without),
    )


def _near_miss(text: str, trigger: str) -> str:
    """The words in `text` that are the trigger but for case, accents, underscores or one typo."""
    words = text.split()
    length = len(trigger.split())
    target = _folded(trigger)
    from rapidfuzz.distance import OSA

    for size in sorted({length, 1, length + 1}):
        for start in range(len(words) - size + 1):
            found = " ".join(words[start : start + size]).strip(" ,.;:!?()\"'“”‘’„«»")
            distance = OSA.distance(_folded(found), target, score_cutoff=1)
            if distance == 0 or (distance == 1 and len(target) >= 6):
                return found
    return ""


def _folded(text: str) -> str:
    bare = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in bare if char.isalnum())


def _too_long(captions: Mapping[str, Caption], limit: int) -> list[Finding]:
    long = {path: _longest_line(caption.text, limit) for path, caption in captions.items()}
    over = [path for path, tokens in long.items() if tokens > limit]
    if not over:
        return []
    most = max(over, key=lambda path: long[path])
    larger = next((size for size in (150, 225) if size >= long[most] and size > limit), None)
    fix = msg("shorten them, the important words first")
    if larger:
        fix = msg("{fix}, or set max_token_length = {larger}", fix=fix, larger=larger)
    return [
        Finding(
            kind="caption_long",
            level="warning",
            text=msg(
                "{captions} longer than the {limit} tokens CLIP reads (the longest has"
                " {long}): {names}",
                captions=plural("{n} caption", "{n} captions", len(over)),
                limit=limit,
                long=long[most],
                names=names(over),
            ),
            fix=fix,
            files=tuple(over),
        )
    ]


def _longest_line(text: str, limit: int) -> int:
    """The tokens of the longest line, counted where there may be more than `limit`."""
    lines = [line for line in text.split("\n") if most_tokens(line) > limit]
    return max(map(count_tokens, lines), default=0)


def _boilerplate(captions: Mapping[str, Caption]) -> list[Finding]:
    """The same caption everywhere: then it teaches no more than a trigger alone."""
    texts = [caption.text for caption in captions.values() if caption.file]
    if len(texts) < MIN_CAPTIONS_FOR_BOILERPLATE:
        return []
    text, count = Counter(texts).most_common(1)[0]
    if count < BOILERPLATE_SHARE * len(texts):
        return []
    return [
        Finding(
            kind="caption_boilerplate",
            level="warning",
            text=msg(
                '{count} of {captions} are the same: "{text}"',
                count=f"{count:,}",
                captions=plural("{n} caption", "{n} captions", len(texts)),
                text=text[:80],
            ),
            fix=msg(
                "describe what differs between the pictures; what is never named melts into"
                " the trigger"
            ),
        )
    ]
