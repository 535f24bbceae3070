"""The description of each setting: the docstring under its key in the model.

Read only when it is shown, since most starts of the program show none of it.
"""

import ast
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources


@cache
def setting_texts() -> Mapping[str, str]:
    """The text of each key, on one line."""
    source = resources.files("tenner.settings").joinpath("model.py").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for section in ast.parse(source).body:
        if not isinstance(section, ast.ClassDef):
            continue
        for key, below in zip(section.body, section.body[1:], strict=False):
            match key, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = re.sub(r"\s+", " ", text)
                case _:
                    pass
    return found
