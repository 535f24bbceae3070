"""The page of a run on a port, for those who hold its token.

`access` decides who may request what, `app` answers, `limits` bounds what strangers can use up,
`process` is the program in which this runs, and `server` opens the port, starts that program and
restarts it.
"""

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path

from tenner.core.errors import SettingsError
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.core.secrets import Secrets, secrets_from
from tenner.serve.batch_dir import is_batch
from tenner.settings.model import Settings
from tenner.ui.screen import Screen

TOKEN_VARIABLE = "TENNER_SERVE_TOKEN"


@contextlib.contextmanager
def serving(
    settings: Settings,
    run_dir: RunDir,
    secrets: Secrets,
    environ: Mapping[str, str],
    *,
    screen: Screen,
) -> Generator[None]:
    """Serve the run's page while the context lasts, where that was requested. The screen shows
    where the page is: the file, or the address at which it is served.

    Raises SettingsError where the port cannot be had.
    """
    if not settings.serve:
        screen.show_address("page", str(run_dir.report))
        yield
        return
    from tenner.serve.server import open_page, page_endpoint

    token = secrets.get(TOKEN_VARIABLE)
    endpoint = page_endpoint(
        settings.serve_host, settings.serve_port, settings.serve_names, token, environ
    )
    with open_page(run_dir, endpoint, environ=environ, on_trouble=screen.say) as opened:
        screen.show_address("page", opened.url)
        try:
            yield
        finally:
            screen.show_address("page", str(run_dir.report))


def serve_run(run: Path, settings: Settings, environ: Mapping[str, str]) -> None:
    """`tenner serve RUN`: the page of a run or a batch, running or ended, until a signal.

    Raises SettingsError where there is no run or the port cannot be had.
    """
    from tenner.serve.server import page_endpoint, serve_forever

    run_dir = RunDir(run)
    if not run_dir.settings.is_file() and not is_batch(run):
        raise SettingsError(
            msg("{run} is not the directory of a run or a batch", run=run),
            fix=msg("name the folder that holds settings.toml, or batch.json"),
        )
    secrets, problems = secrets_from(environ)
    if problems:
        raise SettingsError(problems=problems)
    token = secrets.get(TOKEN_VARIABLE)
    endpoint = page_endpoint(
        settings.serve_host, settings.serve_port, settings.serve_names, token, environ
    )
    serve_forever(run_dir, endpoint)
