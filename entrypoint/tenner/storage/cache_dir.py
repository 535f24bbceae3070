"""The folder of all downloads."""

from collections.abc import Mapping
from pathlib import Path


def downloads_dir(environ: Mapping[str, str]) -> Path:
    """The folder of all downloads: `TENNER_CACHE_DIR`, else the user's cache folder."""
    if environ.get("TENNER_CACHE_DIR"):
        return Path(environ["TENNER_CACHE_DIR"])
    from platformdirs import user_cache_path

    return user_cache_path("tenner")
