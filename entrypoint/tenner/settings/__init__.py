"""What the user requested: flags, `TENNER_*` variables, a TOML file, a preset; strict."""

from tenner.settings.model import Settings
from tenner.settings.resolve import Request, load_request

__all__ = ["Request", "Settings", "load_request"]
