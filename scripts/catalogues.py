"""Collect the texts that people see, and bring the catalogues of translations up to date.

    python -m scripts.catalogues

writes `entrypoint/tenner/locale/tenner.pot`, which lists every text, and takes new texts into each
`tenner.po` below it, untranslated, for a translator to fill; those that are gone leave it. It ends
with 1 while a translation is missing.
"""

import ast
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po
from jinja2.ext import babel_extract

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "entrypoint" / "tenner"
LOCALE = PACKAGE / "locale"
TEMPLATE = LOCALE / "tenner.pot"
ONE, MANY = {"msg", "label"}, {"plural", "counted_label"}
"""Functions whose first argument is a text, and those whose first two are: for one, for many."""
OF_TEMPLATES = {"t": None, "plain": None, "tn": (1, 2)}
"""The same of templates."""
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""No time of day in the files: what is not changed stays as it is."""


def extracted() -> Catalog:
    """Every text of the package, with the files that say it."""
    found = Catalog(project="tenner", charset="utf-8", creation_date=_EPOCH, fuzzy=False)
    found.header_comment = "# The texts of tenner, written by `python -m scripts.catalogues`."
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.html")]):
        texts = _of_python(path) if path.suffix == ".py" else _of_template(path)
        for text in texts:
            found.add(text, None, [(str(path.relative_to(PACKAGE)), 0)])
    return found


def _of_python(path: Path) -> Iterator[str | tuple[str, ...]]:
    """Babel's own reader takes values that are f-strings for texts; this one takes constants."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match call:
            case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(text)), *_]) if (
                name in ONE
            ):
                yield text
            case ast.Call(
                func=ast.Name(id=name),
                args=[ast.Constant(value=str(one)), ast.Constant(value=str(many)), *_],
            ) if name in MANY:
                yield one, many
            case _:
                pass


def _of_template(path: Path) -> Iterator[str | tuple[str, ...]]:
    with path.open("rb") as file:
        options = {"encoding": "utf-8", "trim_blocks": "true", "lstrip_blocks": "true"}
        for _, name, found, _ in babel_extract(file, OF_TEMPLATES, (), options):
            texts = (found,) if isinstance(found, str) else tuple(filter(None, found or ()))
            if texts:  # names that labels.py makes have none here
                yield texts[:2] if name == "tn" else texts[0]


def write(catalogue: Catalog, path: Path) -> None:
    """Write a catalogue, one text a line, so that changes are seen one by one."""
    with path.open("wb") as file:
        write_po(file, catalogue, width=0, include_lineno=False, ignore_obsolete=True)


def updated(path: Path, template: Catalog) -> Catalog:
    """The translations at `path`, for the texts of `template`."""
    with path.open("rb") as file:
        found = read_po(file, locale=path.parts[-3])
    found.update(template, no_fuzzy_matching=True, update_header_comment=False)
    found.revision_date = _EPOCH
    return found


def translations() -> list[Path]:
    """The catalogue of each language."""
    return sorted(LOCALE.glob("*/LC_MESSAGES/tenner.po"))


def missing(catalogue: Catalog) -> list[str]:
    """The texts without a translation."""
    return [
        each.id if isinstance(each.id, str) else each.id[0]
        for each in catalogue
        if each.id and not (all(each.string) if isinstance(each.string, tuple) else each.string)
    ]


def main() -> int:
    template = extracted()
    write(template, TEMPLATE)
    left: list[str] = []
    for path in translations():
        catalogue = updated(path, template)
        write(catalogue, path)
        new = missing(catalogue)
        print(f"{path.relative_to(ROOT)}: {len(catalogue)} texts, {len(new)} not translated")
        left += new
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
