"""Every sentence that the program can say on a run's page, found in its code.

A sentence is an f-string or a text where it is made: the text and fix of warnings, notes and of
what can go wrong once a page is there, and the reasons of decisions. Its template holds `{}` for
each value. What a name stands for is looked up within its function and module; a part that is
itself chosen among texts is a `{}` there, and each of the texts is a sentence of its own.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tenner

ROOT = Path(tenner.__file__).parent
ERRORS = ("TrainingError", "DeliveryError", "BudgetReached", "Stopped")
"""What can end a run that has a page."""
MEETS_RUNS = (
    "weights.py",
    *(f"delivery/{room}.py" for room in ("deliver", "folder", "manifest", "remote_run")),
    *(f"delivery/{room}.py" for room in ("hub", "hub_client", "s3", "s3_client")),
)
"""Rooms whose errors can end a run that has begun."""
SAYING = {
    "Warned": ("text", "fix"),
    "Failed": ("text", "fix"),
    "Choice": ("reason",),
    "BatchChoice": ("reason", "why_checkpointing", "why_accumulation"),
    "ChosenEngine": ("reason",),
    "Problem": ("text", "fix"),
    "Rule": ("text", "fix"),
    "Finding": ("text", "fix"),
    "replace": ("reason", "why_checkpointing", "why_accumulation"),
    "Rung": ("says",),
    "Price": ("source",),
    "_sign": ("text",),
    "TransientError": ("text",),
    "_warning": ("text", "fix"),
    "_finding": ("text", "fix"),
    "mend": ("text",),
    **dict.fromkeys(ERRORS, ("text", "fix")),
}
POSITIONS = {
    "_sign": (2,),
    "TransientError": (0,),
    "_warning": (1, 2),
    "_finding": (2, 3),
    "mend": (1,),
    **dict.fromkeys(ERRORS, (0,)),
}
"""Of those said without a keyword."""
VALUE = "{}"


@dataclass(frozen=True)
class Place:
    """A function, in its module."""

    module: ast.Module
    function: ast.FunctionDef | None


def sentences(module: Path) -> set[str]:
    """The templates of all sentences that `module` makes."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    meets_runs = str(module.relative_to(ROOT)).startswith(MEETS_RUNS)
    found: set[str] = set()
    for function, call in _calls(tree):
        name = getattr(call.func, "id", "") or getattr(call.func, "attr", "")
        if name not in SAYING or (_is_error(name, call) and not meets_runs):
            continue
        place = Place(tree, function)
        said = [each.value for each in call.keywords if each.arg in SAYING[name]]
        said += [call.args[at] for at in POSITIONS.get(name, ()) if at < len(call.args)]
        for value in said:
            found |= set(_told(value, place, found, 0))
    for function in [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)]:
        if function.name == "_meaning":
            for value in _returned(function):
                for part in value.elts if isinstance(value, ast.Tuple) else ():
                    found |= set(_told(part, Place(tree, function), found, 0))
        if function.name.startswith(("choose_", "_why", "why_", "next_rung", "reason_")):
            for value in _returned(function):
                parts = value.elts[1:] if isinstance(value, ast.Tuple) else [value]
                for part in parts:
                    found |= set(_told(part, Place(tree, function), found, 0))
    return {each for each in found if _is_sentence(each)}


def _calls(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | None, ast.Call]]:
    def walk(node: ast.AST, function: ast.FunctionDef | None):
        for child in ast.iter_child_nodes(node):
            inner = child if isinstance(child, ast.FunctionDef) else function
            if isinstance(child, ast.Call):
                yield inner, child
            yield from walk(child, inner)

    yield from walk(tree, None)


def _is_error(name: str, call: ast.Call) -> bool:
    """Whether it forbids the start of a run, so that no page ever shows it."""
    if name not in ("Problem", "Finding", "Rule"):
        return False
    level = next((each.value for each in call.keywords if each.arg == "level"), None)
    said = getattr(level, "value", None)
    return level is None or said == "error"


def _is_sentence(template: str) -> bool:
    return sum(map(str.isalpha, template.replace(VALUE, ""))) > 1


def _told(value: ast.expr, place: Place, found: set[str], depth: int) -> Sequence[str]:
    """The templates that an expression can come to; parts that are sentences join `found`."""
    if depth > 6:
        return [VALUE]
    match value:
        case ast.Constant(value=str(text)):
            return [text.replace("{", "{{").replace("}", "}}") if "{" in text else text]
        case ast.Constant(value=None):
            return []
        case ast.JoinedStr(values=parts):
            texts = [""]
            for part in parts:
                if isinstance(part, ast.Constant):
                    options = [str(part.value)]
                else:
                    assert isinstance(part, ast.FormattedValue)
                    options = [VALUE]
                    found |= {
                        each for each in _told(part.value, place, found, depth + 1) if each != VALUE
                    }
                texts = [text + option for text in texts for option in options]
            return texts
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            ends = _told(right, place, found, depth + 1)
            return [a + b for a in _told(left, place, found, depth + 1) for b in ends]
        case ast.Lambda(body=body):
            return _told(body, place, found, depth + 1)
        case ast.IfExp(body=body, orelse=other):
            both = (body, other)
            return [text for each in both for text in _told(each, place, found, depth + 1)]
        case ast.BoolOp(values=values):
            return [text for each in values for text in _told(each, place, found, depth + 1)]
        case ast.Name(id=name):
            return [
                text
                for each in _assigned(name, place)
                for text in _told(each, place, found, depth + 1)
            ] or [VALUE]
        case ast.Call(func=ast.Name(id=name)):
            return [
                text
                for function in place.module.body
                if isinstance(function, ast.FunctionDef) and function.name == name
                for each in _returned(function)
                for text in _told(each, Place(place.module, function), found, depth + 1)
            ] or [VALUE]
        case ast.Subscript(value=ast.Dict(values=values)):
            return [text for each in values for text in _told(each, place, found, depth + 1)]
        case _:
            return [VALUE]


def _assigned(name: str, place: Place) -> list[ast.expr]:
    """What a name is given in its function, or else in its module."""
    for scope in (place.function, place.module):
        values: list[ast.expr] = []
        nodes = scope.body if isinstance(scope, ast.Module) else ast.walk(scope) if scope else ()
        for node in nodes:
            match node:
                case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                    values.append(value)
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=parts)):
                    values += [
                        part
                        for target, part in zip(targets, parts, strict=True)
                        if isinstance(target, ast.Name) and target.id == name
                    ]
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.IfExp() as value):
                    values += _of_choice(name, targets, value)
                case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value) if (
                    target == name
                ):
                    values.append(value)
                case ast.AugAssign(target=ast.Name(id=target), value=value) if target == name:
                    values.append(value)
                case _:
                    pass
        if values:
            return values
    return []


def _of_choice(name: str, targets: list[ast.expr], value: ast.IfExp) -> list[ast.expr]:
    names = [getattr(each, "id", "") for each in targets]
    if name not in names:
        return []
    both = [each for each in (value.body, value.orelse) if isinstance(each, ast.Tuple)]
    return [each.elts[names.index(name)] for each in both]


def _returned(function: ast.FunctionDef) -> list[ast.expr]:
    found: list[ast.expr] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and node.value is not None:
            value = node.value
            both = (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
            found += both
    return found
