"""Whether the Hub gives a gated base to this user: checked before anything is rented.

The Hub lists a gated repo to everybody and refuses its files, so a HEAD request is made
for the file itself.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, TransientError
from tenner.core.secrets import secrets_from
from tenner.families import KnownBase
from tenner.storage.hub_client import call_hub, open_hub_client

_SECONDS = 10.0
_REFUSED = frozenset({"401", "402", "403", "GatedRepo", "RepoNotFound"})


def access_problems(known: KnownBase, environ: Mapping[str, str]) -> tuple[Problem, ...]:
    """Why this user cannot fetch the base; empty where it is open, or the Hub does not answer."""
    if not known.is_gated:
        return ()
    secrets = secrets_from(environ)[0]
    try:
        client = open_hub_client(known.hub_id, secrets=secrets, env=environ)
        call_hub(known.hub_id, client, Deadline(_SECONDS), _head, known, client)
    except TransientError:
        return ()
    except PermanentError as error:
        if error.code not in _REFUSED:
            return ()
        fix = msg(
            "open {address}, accept its licence, and set HF_TOKEN to a token that may read it",
            address=f"https://huggingface.co/{known.hub_id}",
        )
        return (replace(error.problem, fix=fix, level="error"),)
    return ()


def _head(known: KnownBase, client: Any) -> object:
    url = f"{client.endpoint}/{known.hub_id}/resolve/{known.revision}/{known.file}"
    return client.api.get_hf_file_metadata(url=url, token=client.api.token)
