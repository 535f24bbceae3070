"""Rules of how long a run is and what makes up its steps."""

from tenner.core.messages import Message, msg
from tenner.rules.rule import Rule


def _both(one: str, other: str, fix: Message) -> Rule:
    return Rule(
        when=lambda view: view.on(one) and view.on(other),
        text=msg("{one} and {other} are both set", one=one, other=other),
        fix=fix,
        needs="settings",
    )


RULES = (
    Rule(
        when=lambda view: all(
            view.values.get(name) is not None for name in ("max_train_epochs", "max_train_steps")
        ),
        text=msg("max_train_epochs and max_train_steps are both set"),
        fix=msg("set one: epochs to see all images N times, steps for an exact length"),
        needs="settings",
    ),
    _both("save_every_n_epochs", "save_every_n_steps", msg("remove one of them")),
    Rule(
        when=lambda view: (
            view.on("effective_batch_size") and view.number("gradient_accumulation_steps") > 1
        ),
        text=msg("effective_batch_size and gradient_accumulation_steps are both set"),
        fix=msg("set one: the first is filled up with accumulation by itself"),
        needs="settings",
    ),
)
