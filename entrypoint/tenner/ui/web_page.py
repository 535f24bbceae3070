"""What all pages share: one style, one script, and a policy that lets nothing else run.

The content security policy names a page's own style and script by their hashes, so a script that
came in through a caption would not run even if it were not escaped.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files


@cache
def page_style() -> str:
    """The style of all pages; a page adds its own after it."""
    return _packaged_text("page.css")


@cache
def page_script() -> str:
    """The script of all pages: languages, the plot's values under the pointer, updates of a page
    during its run."""
    return _packaged_text("page.js")


def content_policy(style: str, *, connects: bool = False) -> str:
    """The policy of a page with this style and the shared script; `connects` lets it request from
    its own server."""
    own_server = "connect-src 'self'; " if connects else ""
    return (
        f"default-src 'none'; img-src data:; {own_server}base-uri 'none'; form-action 'none'; "
        f"style-src {_hash_source(style)}; script-src {_hash_source(page_script())}"
    )


def _hash_source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _packaged_text(name: str) -> str:
    return files("tenner.ui").joinpath(name).read_text(encoding="utf-8")
