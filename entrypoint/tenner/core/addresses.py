"""Addresses that may hold credentials: the form that is shown, and the form that is sent to the
server.

`Address` is a text without them, so that whatever prints, logs, hashes or delivers it is safe by
itself; only what sends a request calls `full_address`. Hidden are the user part, the value of
every query parameter that is not on a short list, matrix parameters and the fragment.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote_plus

MASK = "***"
_SHOWN_PARAMETERS = frozenset(
    {"endpoint_url", "region", "profile", "addressing", "links", "optional", "public", "revision"}
    | {"download", "raw", "type", "format", "size", "fp"}
)
"""Query parameters whose values are no secret: options of destinations, and those of links to
files on the Hub and Civitai."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")
_BARE_USER = re.compile(r"(?![/.~])[^/\s@:]+:[^/\s@]+@")
_IN_TEXT = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}:/+[^\s\"'<>`|]+")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,40}")


_SHORTEST_HIDDEN = 8
"""Shorter values are hidden in their own address only: masked in every text, they would hide
ordinary words too."""
_hidden: set[str] = set()


class Address(str):
    """An address or a local path, as it may be shown. `full` has its credentials too."""

    full: str

    def __new__(cls, text: str) -> "Address":
        if isinstance(text, Address):
            return text
        made = super().__new__(cls, without_credentials(text))
        made.full = text
        _hidden.update(each for each in credentials_in(text) if len(each) >= _SHORTEST_HIDDEN)
        return made

    @property
    def lacks_credentials(self) -> bool:
        """Whether it was copied from a text in which credentials were masked."""
        return MASK in self.full


def full_address(text: str) -> str:
    """The address with its credentials, for its own server alone."""
    return text.full if isinstance(text, Address) else text


def credentials_in(text: str) -> tuple[str, ...]:
    """Every part of an address that is not to be shown, as written and decoded."""
    found = [part for part, shown in _parts(text) if part != shown and part != MASK]
    bare = [part.removesuffix("@") for part in found]
    values = [value for part in bare for value in (part, *part.split(":", 1), part.split("=")[-1])]
    values += [unquote_plus(value) for value in values]
    return tuple(dict.fromkeys(value for value in values if value and value != MASK))


def without_credentials(text: str) -> str:
    """The address as it may be shown. A local path stays what it is."""
    return "".join(shown for _, shown in _parts(text))


def without_credentials_in(text: str) -> str:
    """Any text, with each address in it as it may be shown, and no credential of an `Address` that
    this process was given."""
    for value in sorted(_hidden, key=len, reverse=True):
        text = text.replace(value, MASK)
    return _IN_TEXT.sub(lambda match: without_credentials(match[0]), text)


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """The pieces of an address in order, each with how it is shown."""
    scheme = _SCHEME.match(text)
    if scheme is None:
        user = _BARE_USER.match(text)
        end = user.end() if user else 0
        yield text[:end], f"{MASK}@" if user else ""
        yield text[end:], text[end:]
        return
    yield scheme[0], scheme[0]
    rest = text[scheme.end() :]
    if scheme[0].lower().startswith("file:"):
        yield rest, rest
        return
    before, mark, fragment = rest.partition("#")
    before, question, query = before.partition("?")
    user, path = _user_of(before)
    if user:
        yield user, f"{MASK}@"
    yield from _path_parts(path)
    if question:
        yield "?", "?"
        yield from _query_parts(query)
    if mark:
        yield "#", "#"
        yield fragment, MASK if fragment else ""


def _user_of(before: str) -> tuple[str, str]:
    """User part, with its `@`, and the rest. A password may hold an unescaped `/` or `@`."""
    host, slash, path = before.partition("/")
    user, at, host = host.rpartition("@")
    if at:
        return user + at, host + slash + path
    _, colon, port = host.partition(":")
    has_no_user = not colon or port.isdigit() or host.startswith("[")
    if has_no_user or (not port and "@" not in path):
        return "", before
    user, at, rest = before.rpartition("@")
    return (user + at, rest) if at else (host, slash + path)  # cut behind a part of a password


def _path_parts(path: str) -> Iterator[tuple[str, str]]:
    for piece in re.split(r"(;[^/]*)", path):
        yield piece, f";{MASK}" if piece.startswith(";") else piece


def _query_parts(query: str) -> Iterator[tuple[str, str]]:
    for piece in re.split(r"([&;])", query):
        name, equals, value = piece.partition("=")
        if piece in {"", "&", ";"} or (name in _SHOWN_PARAMETERS and not equals):
            yield piece, piece
        elif name in _SHOWN_PARAMETERS:
            yield f"{name}=", f"{name}="
            yield from _value_parts(value)
        elif equals and _NAME.fullmatch(name):
            yield f"{name}=", f"{name}="
            yield value, MASK if value else ""
        else:
            yield piece, MASK


def _value_parts(value: str) -> Iterator[tuple[str, str]]:
    """A shown value, which may be an address itself, escaped or not."""
    plain = unquote_plus(value)
    if _SCHEME.match(value) or _BARE_USER.match(value):
        yield from _parts(value)
    elif _SCHEME.match(plain) or _BARE_USER.match(plain):
        yield value, without_credentials(plain)
    else:
        yield value, value
