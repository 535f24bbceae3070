"""How many tags stay in place when tags are shuffled or dropped. Pure."""

from collections.abc import Sequence

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.dataset.items import ImageItem
from tenner.settings.model import Settings


def keep_tokens_for(
    settings: Settings, images: Sequence[ImageItem], trigger: str
) -> tuple[int, tuple[Problem, ...]]:
    """`keep_tokens`, raised so far that a trigger which `add_trigger` put first stays first, and
    what is to be reported of it. `trigger` is the dataset's."""
    trigger = trigger if settings.add_trigger else ""
    moves = settings.shuffle_caption or settings.caption_tag_dropout_rate > 0
    if not trigger or not (moves or settings.engine_options.get("token_warmup_step")):
        return settings.keep_tokens, ()
    needed = len(trigger.split(settings.caption_separator or ","))
    num_kept, problems = max(settings.keep_tokens, needed), list[Problem]()
    if num_kept > settings.keep_tokens:
        text = msg(
            'keep_tokens = {kept}, so that the trigger "{trigger}" stays first in each caption',
            kept=num_kept,
            trigger=trigger,
        )
        problems.append(Problem(text=text, level="note"))
    lines = [line for each in images if not each.is_reg for line in each.caption.split("\n")]
    elsewhere = sum(not line.startswith(trigger) for line in lines)
    if elsewhere:
        problems.append(
            Problem(
                text=msg(
                    "{elsewhere} of {n} captions have the trigger further on, where"
                    " shuffling moves it",
                    elsewhere=elsewhere,
                    n=len(lines),
                ),
                fix=msg("put it first in them, or take it out: add_trigger writes it in front"),
                level="warning",
            )
        )
    return num_kept, tuple(problems)
