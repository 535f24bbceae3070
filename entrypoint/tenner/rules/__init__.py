"""The rules between options: one list, read by `check`, `plan` and `train` alike.

Ranges and types of single settings are in `tenner.settings`; here is what cannot be set
together, has no effect, or is not known to a trainer. A rule is data (`rule.Rule`): when it holds,
for which trainers, what is reported, what fixes it, and what must be known before it can be judged.

To add one, put a `Rule` into the list of its topic (`network`, `ia3`, `captions`, `images`,
`noise`, `length`, `loading`, `lycoris`, `optimizer`, `sampling`, `run`), and a line into `CASES` in
`tests/rules/test_rules.py`, which fails for a rule that no case sets off. Choose

- `needs`: `settings` where what the user wrote is enough (reported before anything else is looked
at), `trainer` where the trainer and the base's family must be known (reported before the base is
fetched and the images are read), `plan` where decided values count (batch, precision, warm-up); -
`trainers`: both, unless the code of one of them is the reason; - `level`: `error` where the run
would fail or learn nothing, `warning` where money or quality is at stake, `note` otherwise; -
`text` and `fix`: the user's words, as text or as a function of the view. A `Rule` whose `when`
gives several problems is a `Check`.

This package imports no settings, plans or trainers' code, only their tables of names: all of these
may import it.
"""

from tenner.rules.listing import RULES, judge
from tenner.rules.rule import Check, Rule
from tenner.rules.view import Needs, Trainer, View

__all__ = ["RULES", "Check", "Needs", "Rule", "Trainer", "View", "judge"]
