"""`tenner check`: dataset and settings judged as the training would take them, on any machine."""

import json
from collections.abc import Mapping
from pathlib import Path

from tenner.core.errors import ExitCode
from tenner.dataset.check import render
from tenner.library.checking import check
from tenner.settings import Request
from tenner.ui.plain_text import print_tables
from tenner.ui.screen import make_screen


def run_check(
    request: Request,
    environ: Mapping[str, str],
    *,
    as_json: bool,
    strict: bool,
    page: Path | None,
    quiet: bool = False,
) -> ExitCode:
    """Judge dataset and settings, print what was found, and write the contact sheet to `page`.

    What `train` would refuse of the settings comes last. Raises DatasetError only where there is
    nothing to look at.
    """
    screen = make_screen(quiet=quiet)
    result = check(request, page=page, environ=environ, screen=screen)
    if as_json:
        print(json.dumps(result.to_json(), ensure_ascii=False, indent=1), flush=True)
    else:
        print_tables(render(result))
        if page:
            print(f"contact sheet: {page}")
    if result.settings_errors:
        for error in result.settings_errors:
            screen.problem(error)
        return ExitCode.SETTINGS
    return result.exit_code(strict=strict)
