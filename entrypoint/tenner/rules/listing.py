"""All rules, in the order in which they are reported."""

from tenner.core.errors import Problem
from tenner.rules import (
    captions,
    families,
    ia3,
    images,
    length,
    loading,
    lycoris,
    network,
    network_values,
    noise,
    optimizer,
    run,
    sampling,
)
from tenner.rules.rule import Check, Rule
from tenner.rules.view import View

RULES: tuple[Rule | Check, ...] = (
    *run.RULES,
    *families.RULES,
    *length.RULES,
    *network.RULES,
    *network_values.RULES,
    *lycoris.RULES,
    *ia3.RULES,
    *loading.RULES,
    *optimizer.RULES,
    *captions.RULES,
    *images.RULES,
    *noise.RULES,
    *sampling.RULES,
)


def judge(view: View) -> tuple[Problem, ...]:
    """All problems that the rules find in what is known, each once. Pure."""
    return tuple(dict.fromkeys(each for rule in RULES for each in rule.problems(view)))
