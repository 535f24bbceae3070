"""The form of a rule."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tenner.core.errors import Level, Problem
from tenner.core.messages import Message
from tenner.rules.view import Needs, Trainer, View

BOTH: tuple[Trainer, ...] = ("sd-scripts", "native")
SD_SCRIPTS: tuple[Trainer, ...] = ("sd-scripts",)
OWN: tuple[Trainer, ...] = ("native",)
Text = Message | Callable[[View], Message]


def applies(view: View, trainers: tuple[Trainer, ...], needs: Needs) -> bool:
    """Whether this is the moment to judge, and the trainer is one that the rule is for.

    Each rule is judged once in a start: as soon as what it needs is known.
    """
    return needs == view.knows and (trainers == BOTH or view.trainer in trainers)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A combination of options: when it is there, what is reported, what fixes it."""

    when: Callable[[View], bool]
    text: Text
    fix: Text
    level: Level = "error"
    trainers: tuple[Trainer, ...] = BOTH
    needs: Needs = "plan"

    def problems(self, view: View) -> tuple[Problem, ...]:
        """The problem, where the rule applies and holds."""
        if not applies(view, self.trainers, self.needs) or not self.when(view):
            return ()
        text = self.text if isinstance(self.text, Message) else self.text(view)
        fix = self.fix if isinstance(self.fix, Message) else self.fix(view)
        return (Problem(text=text, fix=fix, level=self.level),)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A rule with as many problems as there are options that break it."""

    find: Callable[[View], Iterable[Problem]]
    trainers: tuple[Trainer, ...] = BOTH
    needs: Needs = "plan"

    def problems(self, view: View) -> tuple[Problem, ...]:
        """All of them, where the rule applies."""
        return tuple(self.find(view)) if applies(view, self.trainers, self.needs) else ()
