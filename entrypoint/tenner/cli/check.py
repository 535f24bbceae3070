"""`tenner check`: the dataset judged as the training would take it, on any machine."""

import json
from collections.abc import Mapping
from pathlib import Path

from tenner.base.choice import MODELS_DIR, assume_base
from tenner.base.model import Base, find_local_base
from tenner.base.tiny import base_dir
from tenner.core.errors import ExitCode, SettingsError
from tenner.core.events import Phase
from tenner.core.temporary_files import temporary_folder
from tenner.dataset.check import check, render
from tenner.dataset.sheet import write_sheet
from tenner.pipeline.preflight import dataset_request, fetching
from tenner.pipeline.start_files import with_start_files
from tenner.planning.family_defaults import with_family_defaults
from tenner.settings import Request
from tenner.ui.screen import make_screen


def run_check(
    request: Request,
    environ: Mapping[str, str],
    *,
    as_json: bool,
    strict: bool,
    page: Path | None,
) -> ExitCode:
    """Judge the dataset, print what was found, and write the contact sheet to `page`.

    The base need not be here. Raises SettingsError where a file that the settings name cannot be
    used, DatasetError only where there is nothing to look at.
    """
    settings = request.settings
    found = _base(settings.base_model, environ)
    assumed = assume_base(settings, found)
    request = with_family_defaults(
        request, assumed.family, assumed.resolution, is_tiny=assumed.is_tiny
    )
    request = with_start_files(request, found)
    asked = dataset_request(request, assumed.family, assumed.resolution, environ)
    screen = make_screen()
    with temporary_folder("check") as folder:
        with screen:
            result = check(
                asked,
                Path(folder) if page else None,
                lambda done, total: screen.show(
                    Phase(name="check", detail="images decoded", done=done, total=total)
                ),
                lambda done, total: screen.show(fetching(done, total)),
            )
        if assumed.notice:
            result = result.with_finding("assumed_base", assumed.notice)
        if page:
            write_sheet(result, page)
    if as_json:
        print(json.dumps(result.to_json(), ensure_ascii=False, indent=1))
    else:
        from rich.console import Console

        Console().print(render(result))
        if page:
            print(f"contact sheet: {page}")
    return result.exit_code(strict=strict)


def _base(asked: str, environ: Mapping[str, str]) -> Base | None:
    """The base where it is here and whole; a broken one is the training's business."""
    models_dir = Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR)
    try:
        return find_local_base(asked, models_dir=models_dir, tiny_dir=base_dir())
    except SettingsError:
        return None
