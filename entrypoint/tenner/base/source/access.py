"""Whether the Hub gives a gated base to this user: checked before anything is rented.

The Hub lists a gated repo to everybody and refuses its files, so a HEAD request is made
for the file itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, TransientError
from tenner.core.secrets import secrets_from
from tenner.families import KnownBase
from tenner.storage.cache_dir import downloads_dir
from tenner.storage.hub_client import call_hub, open_hub_client

_SECONDS = 10.0
_REFUSED = frozenset({"401", "402", "403", "GatedRepo", "RepoNotFound"})


@dataclass(frozen=True, kw_only=True)
class GatedFile:
    """A file of a repo on the Hub that may be gated."""

    hub_id: str
    revision: str
    file: str


def access_problems(known: KnownBase, environ: Mapping[str, str]) -> tuple[Problem, ...]:
    """Why this user cannot fetch the base; empty where it is open or in a cache here, a note where
    the Hub does not answer."""
    if not known.is_gated or _is_cached(known, environ):
        return ()
    file = GatedFile(hub_id=known.hub_id, revision=known.revision, file=known.file)
    return file_access_problems(file, environ)


def _is_cached(known: KnownBase, environ: Mapping[str, str]) -> bool:
    """By its name and commit alone: training reads the whole of it for its SHA-256."""
    from tenner.storage.hub_download import HubFile, hub_cache

    file = HubFile(repo=known.hub_id, name=known.file, commit=known.revision, size=0, sha256="")
    return hub_cache(environ, downloads_dir(environ) / "bases" / "hub").find(file) is not None


def file_access_problems(gated: GatedFile, environ: Mapping[str, str]) -> tuple[Problem, ...]:
    """Why this user cannot fetch the file; empty where nothing is refused, a note where the Hub
    does not answer."""
    secrets = secrets_from(environ)[0]
    fix = msg(
        "open {address}, accept its licence, and set HF_TOKEN to a token that may read it",
        address=f"https://huggingface.co/{gated.hub_id}",
    )
    try:
        client = open_hub_client(gated.hub_id, secrets=secrets, env=environ)
        call_hub(gated.hub_id, client, Deadline(_SECONDS), _head, gated, client)
    except TransientError:
        text = msg(
            "{hub_id} is gated, and the Hub did not answer whether you may fetch it",
            hub_id=gated.hub_id,
        )
        return (Problem(text=text, fix=fix, level="note"),)
    except PermanentError as error:
        if error.code not in _REFUSED:
            return ()
        return (replace(error.problem, fix=fix, level="error"),)
    return ()


def _head(gated: GatedFile, client: Any) -> object:
    url = f"{client.endpoint}/{gated.hub_id}/resolve/{gated.revision}/{gated.file}"
    return client.api.get_hf_file_metadata(url=url, token=client.api.token)
