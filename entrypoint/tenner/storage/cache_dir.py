"""Where everything that is downloaded is kept."""

from collections.abc import Mapping
from pathlib import Path


def downloads_dir(environ: Mapping[str, str]) -> Path:
    """Where everything that is fetched is kept, unless TENNER_CACHE_DIR says otherwise."""
    if environ.get("TENNER_CACHE_DIR"):
        return Path(environ["TENNER_CACHE_DIR"])
    from platformdirs import user_cache_path

    return user_cache_path("tenner")
