"""`tenner deliver`: a trained run is delivered again, without training."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from tenner.core.errors import SettingsError, errors_in
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.core.secrets import secrets_from
from tenner.runs.civitai import pack_for_civitai
from tenner.runs.handover import default_destination, deliver_run
from tenner.runs.run_lock import lock_run
from tenner.storage.destination_address import parse_destinations
from tenner.ui.screen import make_screen


def deliver_again(
    run: Path,
    destinations: tuple[str, ...],
    environ: Mapping[str, str],
    *,
    for_civitai: bool = False,
    quiet: bool = False,
) -> None:
    """Deliver the run in `run` to `destinations`, or to those of its own settings.

    Raises SettingsError where there is no run, DeliveryError where it could not be delivered.
    """
    run_dir = RunDir(run)
    if not run_dir.settings.is_file():
        raise SettingsError(
            msg("{run} is not the directory of a run", run=run),
            fix=msg("name the folder that holds settings.toml"),
        )
    saved = tomllib.loads(run_dir.settings.read_text(encoding="utf-8"))
    targets, problems = parse_destinations(destinations or saved.get("destinations", ()))
    secrets, wrong = secrets_from(environ)
    errors = errors_in([*problems, *wrong])
    if errors:
        raise SettingsError(problems=errors)
    if for_civitai:
        packed = pack_for_civitai(run_dir, saved["output_name"])
        print(f"packed for Civitai: {packed}")
    with lock_run(run_dir), make_screen(has_times=True, quiet=quiet) as screen:
        delivered = deliver_run(
            run_dir,
            targets or (default_destination(run_dir),),
            name=saved["output_name"],
            secrets=secrets,
            environ=environ,
            on_event=screen.show,
        )
    for each in delivered.at:
        print(f"delivered and verified: {each.destination}")
