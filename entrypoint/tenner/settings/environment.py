"""Environment variables without the quotes that some tools add to them.

`docker run --env-file` and some hosts' forms leave quotes around a value that a shell takes off.
"""

from collections.abc import MutableMapping

from tenner.core.secrets import KNOWN_NAMES
from tenner.settings.names import PROGRAM_VARIABLES

USER_VARIABLES = ("PUID", "PGID")
"""The user and group that the image's start switches to."""
_OTHERS = ("SD_SCRIPTS_DIR", "RUNPOD_POD_ID", "CONTAINER_ID", "VAST_CONTAINERLABEL")
_NAMES = frozenset(
    (
        *PROGRAM_VARIABLES,
        *KNOWN_NAMES,
        *(f"{name}_FILE" for name in KNOWN_NAMES),
        *USER_VARIABLES,
        *_OTHERS,
    )
)
_PREFIXES = ("AWS_", "HF_")


def unquote(environ: MutableMapping[str, str]) -> None:
    """Take the quotes off the values that tenner and its libraries read from `environ`.

    Settings (`TENNER_*`) are left to the source that reads them.
    """
    for name, value in list(environ.items()):
        if name in _NAMES or name.startswith(_PREFIXES):
            plain = unquoted(value)
            if plain != value:
                environ[name] = plain


def unquoted(text: str) -> str:
    """`text` without blanks around it and one pair of quotes around the whole."""
    text = text.strip()
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text
