"""Settings as the rules between options see them."""

from collections.abc import Mapping

from tenner.rules import View
from tenner.settings.known_bases import known_base
from tenner.settings.model import Settings


def view_of(
    settings: Settings, sources: Mapping[str, str], *, has_regularisation_folders: bool = False
) -> View:
    """What the user wrote, before it is known who trains and on what; the family by the base's
    name where that is a known one."""
    known = known_base(settings.base_model)
    written = {key: value for key, value in settings if key != "engine_options"}
    return View(
        values={**written, **settings.engine_options},
        options=settings.engine_options,
        sources=sources,
        family=known.family if known else None,
        has_regularisation_folders=has_regularisation_folders,
    )
