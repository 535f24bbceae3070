"""What an optimizer's authors recommend, taken where the user leaves a setting open. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tenner.core.messages import Message, msg
from tenner.optimizers.table import find_optimizer

_RATES = ("learning_rate", "unet_lr", "text_encoder_lr")
_SCHEDULE = ("lr_scheduler", "lr_warmup_steps")
_SHOWN = ("learning_rate", *_SCHEDULE)


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """Settings that were open, by name, with their values; `why` explains them to the user."""

    values: Mapping[str, object]
    why: Message


def with_recommended(
    optimizer_type: str, optimizer_args: Sequence[str], sources: Mapping[str, str]
) -> Recommended | None:
    """What to take for this optimizer; None where nothing is recommended or all is set.

    `sources` names where each setting was set. A preset's rates are for its own optimizer, and
    count as open where the optimizer was set elsewhere.
    """
    optimizer = find_optimizer(optimizer_type)
    if optimizer is None:
        return None
    values: dict[str, object] = {}
    if optimizer.finds_rate:
        free = [key for key in _RATES if _is_open(key, sources)]
        values |= {key: None for key in free if key in sources}
        values |= {"learning_rate": 1.0} if "learning_rate" in free else {}
    if optimizer.finds_rate or optimizer.has_own_schedule:
        plain: dict[str, object] = {"lr_scheduler": "constant", "lr_warmup_steps": 0}
        values |= {key: plain[key] for key in _SCHEDULE if _is_open(key, sources)}
    given = {word.partition("=")[0] for word in optimizer_args}
    more = tuple(word for word in optimizer.recommended_args if word.partition("=")[0] not in given)
    if more:
        values["optimizer_args"] = (*optimizer_args, *more)
    shown = [f"{key} = {values[key]}" for key in _SHOWN if key in values]
    shown += [f"optimizer_args {' '.join(more)}"] if more else []
    if not shown:
        return None
    return Recommended(
        values=values,
        why=msg(
            "{name}, as recommended where it is not set: {shown} ({source})",
            name=optimizer.name,
            shown=", ".join(shown),
            source=optimizer.source,
        ),
    )


def _is_open(key: str, sources: Mapping[str, str]) -> bool:
    source = sources.get(key)
    if source is None:
        return True
    of_preset = source.startswith("preset ")
    return of_preset and not sources.get("optimizer_type", "").startswith("preset ")
