"""Arguments written as `key=value`: for the optimizer, its schedule and the network."""

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.rules.view import View


def keyword_arguments(words: Sequence[str]) -> dict[str, Any]:
    """`("betas=(0.9, 0.99)", "decouple=True")` as keyword arguments, literals as in Python.

    A value that is no literal is its text; words that are no `key=value` are left out, which
    `written_problems` reports.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key.isidentifier():
            found[key] = ast.literal_eval(value) if _is_literal(value) else value
    return found


def written_problems(view: View, name: str) -> Iterator[Problem]:
    """What is wrong with how the arguments of `name` are written; the network's may be words."""
    for word in view.words(name):
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            yield Problem(
                text=msg("{name}: '{word}' is not key=value", name=name, word=word),
                fix=msg("write {key}=VALUE", key=key),
            )
        elif name != "network_args" and not _is_literal(value):
            expected = value.capitalize() if value in ("true", "false", "none") else f"'{value}'"
            text = msg(
                "{name}: the value of {word} is not a number, True, False or 'text'",
                name=name,
                word=word,
            )
            yield Problem(text=text, fix=msg("write {key}={expected}", key=key, expected=expected))


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return "=" not in text
