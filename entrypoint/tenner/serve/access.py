"""Who may see the page. Pure: names, tokens and headers in, a decision out.

A page on a loopback port can be reached by any web site that the same browser visits: a name of
the site's own that resolves to 127.0.0.1 (DNS rebinding) makes it the same origin. So a request
has to name the server by an address, by `localhost`, or by a name that was allowed; one whose
headers name another origin is refused; and nothing is shown without the token.
"""

import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

_BEARER = re.compile(r"bearer\s+(\S+)\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """A request's headers and token. Header names are in lower case."""

    headers: Mapping[str, str]
    query_token: str = ""
    changes_something: bool = False


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a request is refused: the HTTP status and a sentence."""

    status: HTTPStatus
    text: str


@dataclass(frozen=True, kw_only=True)
class Access:
    """The rules of one server. `names` are host names under which it may be reached."""

    token: str
    names: Sequence[str] = ()

    def refuses(self, request: PageRequest) -> Refusal | None:
        """Why the request is refused, or None."""
        host = request.headers.get("host", "")
        if not self._is_ours(host):
            return Refusal(
                status=HTTPStatus.MISDIRECTED_REQUEST,
                text="this server does not go by that name; set serve_names to allow it",
            )
        if not _same_origin(request.headers, host):
            return Refusal(status=HTTPStatus.FORBIDDEN, text="requested from another origin")
        token = _bearer(request.headers)
        if not request.changes_something:
            token = token or request.query_token
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            return Refusal(status=HTTPStatus.UNAUTHORIZED, text="the token is missing or wrong")
        return None

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        return name == "localhost" or _is_address(name) or name in map(str.lower, self.names)


def host_name(host: str) -> str:
    """`Pod-1.example:8321` → `pod-1.example`; empty where there is no sensible name."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same_origin(headers: Mapping[str, str], host: str) -> bool:
    """Whether the request comes from the page itself, or opens it: from the address bar or a link
    (which needs the token)."""
    origin = headers.get("origin")
    if origin is not None:
        try:
            return urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:
            return False
    site = headers.get("sec-fetch-site", "none")
    return site in ("none", "same-origin") or headers.get("sec-fetch-mode") == "navigate"


def _bearer(headers: Mapping[str, str]) -> str:
    found = _BEARER.fullmatch(headers.get("authorization", ""))
    return found[1] if found else ""
